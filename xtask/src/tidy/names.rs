//! The names in a file's code: comments and strings hold none.

use anyhow::{Result, anyhow};
use proc_macro2::{Punct, Spacing, TokenStream, TokenTree};

/// A name and the line that it stands on, from 1.
#[derive(Debug, PartialEq, Eq)]
pub struct Name {
    pub text: String,
    pub line: usize,
}

/// Every name in Rust source but those of fields and methods, which are something else. A macro's call
/// keeps its exclamation mark.
pub fn of(text: &str) -> Result<Vec<Name>> {
    let tokens: TokenStream = text.parse().map_err(|error| anyhow!("isn't Rust: {error}"))?;
    let mut names = Vec::new();
    collect(tokens, &mut names);
    Ok(names)
}

fn collect(tokens: TokenStream, names: &mut Vec<Name>) {
    let mut after_dot = false;
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let dot = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '.');
        match token {
            TokenTree::Group(group) => collect(group.stream(), names),
            TokenTree::Ident(name) if !after_dot => {
                let call = matches!(tokens.peek(), Some(TokenTree::Punct(punct)) if is_call(punct));
                let text = format!("{name}{}", if call { "!" } else { "" });
                names.push(Name { text, line: name.span().start().line });
            }
            _ => {}
        }
        after_dot = dot;
    }
}

/// An exclamation mark that doesn't begin `!=`.
fn is_call(punct: &Punct) -> bool {
    punct.as_char() == '!' && punct.spacing() == Spacing::Alone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_fields_hold_no_names() {
        let text = r##"//! kube
            /// kube
            use a::b; /* kube /* kube */ kube */
            c("kube \" kube", '"', r#"kube " kube"#).kube.kube(d);
            e!(f != g)
        "##;
        let names: Vec<_> = of(text).unwrap().into_iter().map(|name| (name.text, name.line)).collect();
        let expected =
            [("doc", 1), ("doc", 2), ("use", 3), ("a", 3), ("b", 3), ("c", 4), ("d", 4), ("e!", 5), ("f", 5), ("g", 5)];
        assert_eq!(names, expected.map(|(name, line)| (name.to_owned(), line)));
        assert!(of("fn f() {").is_err());
    }
}
