//! Foreign text never panics, and what was written is read.

use iommu_analysis::compare::{Stacks, differential, folded, parse_folded};
use iommu_analysis::{callgrind, noise::Noise};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*") {
        let _ = callgrind::parse(&text);
        let _ = parse_folded(&text);
        let _ = Noise::parse(&text);
    }

    /// Lines that look right, in any order.
    #[test]
    fn callgrind_lines_in_any_order(
        lines in prop::collection::vec(
            prop_oneof![
                Just("fn=(1) a'b".to_owned()), Just("fn=(1)".to_owned()), Just("cfn=(2) malloc'a".to_owned()),
                Just("events: Ir".to_owned()), Just("fl=(1)".to_owned()), Just(String::new()),
                "calls=[0-9]{1,22} \\+[0-9]", "[+*-]?[0-9]{0,3} [0-9]{1,22}", "totals: [0-9]{1,22}",
            ],
            0..30,
        ),
    ) {
        let text = format!("# callgrind format\n{}\n", lines.join("\n"));
        if let Ok(counted) = callgrind::parse(&text) {
            let total = lines.iter().rev().find_map(|line| line.strip_prefix("totals: ")).unwrap();
            prop_assert_eq!(counted.instructions(), total.parse::<u64>().unwrap());
        }
    }

    #[test]
    fn folded_stacks_come_back_and_a_graph_of_them_is_drawn(
        stacks in prop::collection::btree_map("[a-z]{1,4}(;[a-z<>&\"']{1,6}){0,4}", 1_u64..1_000_000, 1..12),
        factor in 1_u64..4,
    ) {
        let stacks: Stacks = stacks;
        prop_assert_eq!(&parse_folded(&folded(&stacks)).unwrap(), &stacks);
        let more: Stacks = stacks.iter().map(|(stack, n)| (stack.clone(), n * factor)).collect();
        let flame = differential(&stacks, &more, "samples").unwrap();
        prop_assert!(flame.svg.starts_with("<?xml") && flame.svg.trim_end().ends_with("</svg>"));
        prop_assert!(!flame.svg.contains("<script") && !flame.svg.contains("onload") && !flame.svg.contains("Search"));
        prop_assert_eq!(flame.grown.is_empty(), factor == 1);
    }
}

#[test]
fn lines_that_are_no_stacks_are_numbered() {
    assert_eq!(parse_folded("a;b 3\nmain\n"), Err(2));
    assert_eq!(parse_folded("a;b -3\n"), Err(1));
    assert_eq!(parse_folded("").unwrap(), Stacks::new());
}
