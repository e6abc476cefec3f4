//! Searches every scene whole, tries every mutant, prints a table; exit code 1 when anything is not as it should be.
//! `deep` as argument searches the large scenes instead.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use model::mutant::{Counterexample, MUTANTS};
use model::rest::{Walk, walk};
use model::rules::{RULES, SIGHTS};
use model::scene::{deep_scenes, scenes};
use model::{Mutant, Protocol, Scene, Step, words};
use stateright::{Checker, Model};

enum Job {
    Search(Scene),
    Rest(Scene),
    Mutate(Mutant),
}

/// What came of a job.
struct Outcome {
    line: String,
    /// Lines below it.
    path: Vec<String>,
    seen: Vec<&'static str>,
    good: bool,
}

fn main() -> ExitCode {
    let deep = std::env::args().nth(1).is_some_and(|argument| argument == "deep");
    let played = if deep { deep_scenes() } else { scenes() };
    let mut jobs: Vec<Job> = played.iter().cloned().map(Job::Search).collect();
    jobs.extend(played.into_iter().map(Job::Rest));
    if !deep {
        jobs.extend(MUTANTS.map(Job::Mutate));
    }
    let started = Instant::now();
    let outcomes = play(&jobs);
    for outcome in &outcomes {
        say(&outcome.line);
        outcome.path.iter().for_each(|line| say(line));
    }
    let seen: BTreeSet<&str> = outcomes.iter().flat_map(|outcome| outcome.seen.iter().copied()).collect();
    let unseen: Vec<&str> =
        SIGHTS.iter().map(|sight| sight.name).filter(|name| !seen.contains(name)).collect();
    unseen.iter().for_each(|name| say(&format!("never seen: {name}")));
    let bad = outcomes.iter().filter(|outcome| !outcome.good).count() + unseen.len();
    say(&format!("{} of {} not as expected, {:.1?}", bad, outcomes.len(), started.elapsed()));
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Two at a time.
fn play(jobs: &[Job]) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((at, job)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, jobs.get(at)?)))
                {
                    let outcome = match job {
                        Job::Search(scene) => search(scene),
                        Job::Rest(scene) => rest(scene),
                        Job::Mutate(mutant) => mutate(mutant),
                    };
                    outcomes.lock().expect("a job panicked").push((at, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("a job panicked");
    outcomes.sort_by_key(|(at, _)| *at);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

fn search(scene: &Scene) -> Outcome {
    let started = Instant::now();
    let protocol = Protocol::nameless(scene.clone());
    let checker = protocol.clone().checker().threads(1).spawn_bfs().join();
    let (mut path, mut good) = (Vec::new(), true);
    for rule in &RULES {
        match checker.discovery(rule.name) {
            None => path.push(format!("    holds   {}", rule.name)),
            Some(found) => {
                good = false;
                path.push(format!("    BROKEN  {}", rule.name));
                let end = words::state(&protocol, found.last_state());
                path.extend(tell(&Counterexample { steps: found.into_actions(), end }));
            }
        }
    }
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    let line =
        format!("scene   {:24} {states:>9} states, {depth:>3} deep, {}", scene.name, took(started.elapsed()));
    let seen =
        SIGHTS.iter().map(|sight| sight.name).filter(|name| checker.discovery(name).is_some()).collect();
    Outcome { line, path, seen, good }
}

fn rest(scene: &Scene) -> Outcome {
    let started = Instant::now();
    let Walk { states, longest, cycle } = walk(&Protocol::nameless(scene.clone()));
    let verdict = format!("at rest after {longest} own steps at most");
    let verdict = if cycle.is_some() { "NEVER AT REST".to_owned() } else { verdict };
    let line =
        format!("rest    {:24} {states:>9} states, {}: {verdict}", scene.name, took(started.elapsed()));
    let good = cycle.is_none();
    let path = cycle.iter().flatten().map(|step| format!("        {step}")).collect();
    Outcome { line, path, seen: Vec::new(), good }
}

fn mutate(mutant: &Mutant) -> Outcome {
    let started = Instant::now();
    let found = mutant.search();
    let good = found.is_some() == mutant.breaks.is_some();
    let length = found.as_ref().map(|found| found.steps.len());
    let verdict = match (length, mutant.breaks) {
        (Some(length), Some(rule)) => format!("breaks in {length} steps: {rule}"),
        (None, None) => "nothing breaks: not needed by the rules".to_owned(),
        (Some(length), None) => format!("BREAKS SOMETHING in {length} steps"),
        (None, Some(rule)) => format!("DOES NOT BREAK: {rule}"),
    };
    let sentences: Vec<&str> = mutant.without.iter().map(|mechanism| mechanism.sentence()).collect();
    let line = format!(
        "without {} ({}, {})\n    {verdict}",
        sentences.join(", and "),
        mutant.scene,
        took(started.elapsed())
    );
    let path = found.map(|found| tell(&found)).unwrap_or_default();
    Outcome { line, path, seen: Vec::new(), good }
}

fn tell(found: &Counterexample) -> Vec<String> {
    let steps =
        found.steps.iter().enumerate().map(|(at, step): (usize, &Step)| format!("{:>8}. {step}", at + 1));
    steps.chain([format!("          {}", found.end)]).collect()
}

fn took(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Standard output may be a closed pipe.
fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}
