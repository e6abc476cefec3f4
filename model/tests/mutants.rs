//! Each rule is shown to fail when what guards it is taken out, and the way there is printed (`--nocapture`).

use model::mutant::MUTANTS;
use model::rules::RULES;

#[test]
fn each_mutant_that_should_breaks_its_rule() {
    let breaking = MUTANTS.iter().filter(|mutant| mutant.breaks.is_some());
    let survivors: Vec<_> = breaking
        .filter(|mutant| {
            let found = mutant.search();
            if let Some(found) = &found {
                println!("\nwithout {:?}, {:?} breaks ({}):", mutant.without, mutant.breaks, mutant.scene);
                found.steps.iter().for_each(|step| println!("  {step}"));
                println!("  {}", found.end);
            }
            found.is_none()
        })
        .collect();
    assert!(survivors.is_empty(), "these guard nothing: {survivors:?}");
}

#[test]
fn each_rule_is_broken_by_some_mutant() {
    for rule in &RULES {
        assert!(MUTANTS.iter().any(|mutant| mutant.breaks == Some(rule.name)), "{}", rule.name);
    }
}
