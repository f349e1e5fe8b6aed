//! The kernel takes every program, and says what each costs it to check.

use aya::{EbpfLoader, programs::Program};
use tests::packets::object;

#[test]
fn every_program_passes_the_verifier() {
    let mut ebpf = object::load(&mut EbpfLoader::new()).unwrap();
    let mut names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort();
    assert_eq!(names.len(), 25, "{names:?}");
    let mut failed = Vec::new();
    for name in &names {
        let program = ebpf.program_mut(name).unwrap();
        let loaded = match program {
            Program::SchedClassifier(p) => p.load().and_then(|()| p.info()),
            Program::CgroupSockAddr(p) => p.load().and_then(|()| p.info()),
            Program::CgroupSock(p) => p.load().and_then(|()| p.info()),
            Program::Xdp(p) => p.load().and_then(|()| p.info()),
            other => panic!("{name} is of a kind that no hook takes: {:?}", other.prog_type()),
        };
        match loaded {
            Ok(info) => println!(
                "{name:<16} {:>6} bytes translated, {:>7} instructions verified",
                info.size_translated().unwrap_or(0),
                info.verified_instruction_count().unwrap_or(0)
            ),
            Err(error) => {
                let mut text = format!("{error:?}").replace("\\n", "\n");
                if text.len() > 6000 {
                    text = text[text.len() - 6000..].to_string();
                }
                failed.push(format!("{name}: {text}"));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}
