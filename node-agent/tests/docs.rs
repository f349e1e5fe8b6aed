//! What the documentation says of flags, metrics and files is so.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use clap::CommandFactory;
use datapath::abi::DropReason;
use node_agent::cli::arguments::Cli;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the first table in a document, each its cells.
fn first_table(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2).map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_flag_is_documented_with_its_default_and_no_other() {
    let rows = first_table(&read(&root().join("docs/configuration.md")));
    let command = Cli::command();
    let agent = command.find_subcommand("agent").unwrap();
    let mut known = BTreeSet::new();
    for flag in agent.get_arguments().filter(|flag| !["help", "version"].contains(&flag.get_id().as_str())) {
        let mut names: BTreeSet<_> =
            flag.get_long_and_visible_aliases().into_iter().flatten().map(|l| format!("--{l}")).collect();
        names.extend(flag.get_short().map(|short| format!("-{short}")));
        let is_it = |row: &&Vec<String>| quoted(&row[0]).into_iter().collect::<BTreeSet<_>>() == names;
        let row = rows.iter().find(is_it).unwrap_or_else(|| panic!("docs/configuration.md has no row for {names:?}"));
        if let [default] = flag.get_default_values()
            && !default.is_empty()
        {
            assert_eq!(row[1], format!("`{}`", default.display()), "{names:?}");
        }
        known.extend(names);
    }
    let documented: BTreeSet<_> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    assert_eq!(documented, known);
}

#[test]
fn drops_that_documents_and_alerts_name_exist() {
    let names: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    let rows = first_table(&read(&root().join("docs/troubleshooting.md")));
    let symptoms = rows.iter().filter(|row| row.iter().any(|cell| cell.contains("drop")));
    let mut reasons: Vec<_> = symptoms.flat_map(|row| row.iter().flat_map(|cell| quoted(cell))).collect();
    reasons.retain(|word| word.contains('-') && !word.starts_with('-') && !word.contains([' ', '/', '.']));
    let rules = read(&root().join("manifests/monitoring/rules.yaml"));
    let matcher = rules.split("reason=~\"").nth(1).unwrap().split('"').next().unwrap();
    reasons.extend(matcher.split('|').map(str::to_owned));
    assert!(reasons.len() > 10, "{reasons:?}");
    for reason in reasons {
        assert!(names.contains(reason.as_str()), "no drops are called {reason}");
    }
}

#[test]
fn links_lead_somewhere() {
    let mut documents: Vec<_> = ["README.md", "ARCHITECTURE.md", "DEVELOPMENT.md"].map(|name| root().join(name)).into();
    documents.extend(fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    for document in documents.iter().filter(|path| path.extension().is_some_and(|ending| ending == "md")) {
        for target in read(document).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            assert!(path.exists(), "{}: {target}", document.display());
            let anchors = |line: &str| {
                let title = line.strip_prefix('#')?.trim_start_matches('#').trim().to_lowercase();
                let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
                Some(kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>())
            };
            let found = heading.is_empty() || read(&path).lines().filter_map(anchors).any(|anchor| anchor == heading);
            assert!(found, "{}: {target}", document.display());
        }
    }
}
