//! Whether a served process still lives, judged by its answers (**pure**): times come from outside, counted from any moment.
//!
//! What counts is silence, and only such silence as this agent was awake to hear.

use std::time::Duration;

/// By what a process is judged.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Between an answer and the next question.
    pub pause: Duration,
    /// Longest wait for one answer.
    pub patience: Duration,
    /// Shortest wait for an answer. After a stall of the whole machine question and time-out are overdue together, and
    /// no process may die of the one question that it met: another is asked, and has this long.
    pub last_chance: Duration,
    /// A wait that took this much longer than meant says that this agent stood still, and nothing about the process.
    pub late: Duration,
    /// How long one that has been ready may be silent; two questions at least, whatever this says.
    pub silence: Duration,
    /// The same for one that has not been ready yet: it may be loading.
    pub start: Duration,
}

/// What came back to one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    Ready,
    /// It answered something else.
    NotReady,
    /// Connection refused, no answer in time, or an answer that does not count.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthVerdict {
    Ready,
    NotReady,
    /// Silent, and not yet for too long.
    Doubtful,
    /// To be killed.
    Dead,
}

/// Judges one life of a process.
#[derive(Clone, Debug)]
pub struct Watchdog {
    rules: Rules,
    been_ready: bool,
    /// When the first of the unanswered questions was asked.
    silent_since: Option<Duration>,
    /// Questions since then without an answer.
    unanswered: u32,
    asked: Duration,
    /// How long the wait that is under way was meant to take.
    patience: Duration,
    heard: Duration,
}

impl Watchdog {
    pub fn new(rules: Rules, now: Duration) -> Self {
        Self {
            rules,
            been_ready: false,
            silent_since: None,
            unanswered: 0,
            asked: now,
            patience: rules.patience,
            heard: now,
        }
    }

    /// Whether it has been ready in this life.
    pub fn has_been_ready(&self) -> bool {
        self.been_ready
    }

    /// Whether the last questions that count had no answer.
    pub fn doubts(&self) -> bool {
        self.unanswered > 0
    }

    /// A question goes out; how long to wait for its answer.
    pub fn asks(&mut self, now: Duration) -> Duration {
        if now.saturating_sub(self.heard) > self.rules.pause + self.rules.late {
            self.begin_anew();
        }
        self.asked = now;
        let silent = self.silent_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        self.patience =
            self.rules.patience.min(self.allowed().saturating_sub(silent)).max(self.rules.last_chance);
        self.patience
    }

    /// The answer to it, or that none came.
    pub fn hears(&mut self, now: Duration, heard: Heard) -> HealthVerdict {
        self.heard = now;
        if heard != Heard::Nothing {
            self.begin_anew();
            self.been_ready |= heard == Heard::Ready;
            return if heard == Heard::Ready { HealthVerdict::Ready } else { HealthVerdict::NotReady };
        }
        if now.saturating_sub(self.asked) > self.patience + self.rules.late {
            self.begin_anew();
            return HealthVerdict::Doubtful;
        }
        self.unanswered += 1;
        let since = *self.silent_since.get_or_insert(self.asked);
        let silent = now.saturating_sub(since);
        if silent >= self.allowed() && self.unanswered > 1 {
            HealthVerdict::Dead
        } else {
            HealthVerdict::Doubtful
        }
    }

    /// There was no answer, for a reason that is not the process's own: it does not count.
    pub fn excuses(&mut self, now: Duration) {
        self.heard = now;
    }

    fn begin_anew(&mut self) {
        (self.silent_since, self.unanswered) = (None, 0);
    }

    fn allowed(&self) -> Duration {
        if self.been_ready { self.rules.silence } else { self.rules.start }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PAUSE: Duration = ms(200);
    const LAST_CHANCE: Duration = ms(100);
    const START: Duration = Duration::from_secs(30);

    /// As Envoy is judged.
    fn rules(silence: Duration) -> Rules {
        Rules {
            pause: PAUSE,
            patience: SECOND,
            last_chance: LAST_CHANCE,
            late: ms(250),
            silence,
            start: START,
        }
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Asks at once after each pause and gets no answer, until the verdict is dead or `end` is reached.
    fn silence(dog: &mut Watchdog, from: Duration, end: Duration) -> Option<Duration> {
        let mut now = from;
        while now < end {
            now += dog.asks(now);
            if dog.hears(now, Heard::Nothing) == HealthVerdict::Dead {
                return Some(now - from);
            }
            now += PAUSE;
        }
        None
    }

    #[test]
    fn one_that_was_ready_is_dead_after_the_bound() {
        for bound in [SECOND, ms(2500)] {
            let mut dog = Watchdog::new(rules(bound), ms(0));
            dog.asks(ms(0));
            assert_eq!(dog.hears(ms(1), Heard::Ready), HealthVerdict::Ready);
            let dead = silence(&mut dog, ms(201), ms(60_000)).unwrap();
            assert!(dead >= bound && dead <= bound + PAUSE + LAST_CHANCE, "{dead:?}");
        }
    }

    #[test]
    fn refusals_count_from_the_first() {
        let mut dog = Watchdog::new(rules(SECOND), ms(0));
        dog.asks(ms(0));
        dog.hears(ms(1), Heard::Ready);
        for at in [201, 401, 601, 801, 1001] {
            dog.asks(ms(at));
            assert_eq!(dog.hears(ms(at + 1), Heard::Nothing), HealthVerdict::Doubtful, "{at}");
        }
        dog.asks(ms(1201));
        assert_eq!(dog.hears(ms(1202), Heard::Nothing), HealthVerdict::Dead);
    }

    #[test]
    fn one_that_was_never_ready_may_take_its_time() {
        let mut dog = Watchdog::new(rules(SECOND), ms(0));
        assert_eq!(silence(&mut dog, ms(0), ms(29_000)), None);
        let mut waits = Watchdog::new(rules(SECOND), ms(0));
        for at in 0..600 {
            waits.asks(SECOND * at);
            assert_eq!(waits.hears(SECOND * at + ms(1), Heard::NotReady), HealthVerdict::NotReady);
        }
        let dead = silence(&mut waits, SECOND * 600, SECOND * 700).unwrap();
        assert!(dead >= START && dead < START + SECOND * 2, "{dead:?}");
    }

    /// The machine stood still for as long as the question may wait, and Envoy has not run yet.
    #[test]
    fn nobody_dies_of_one_question() {
        let mut dog = Watchdog::new(rules(SECOND), ms(0));
        dog.asks(ms(0));
        dog.hears(ms(1), Heard::Ready);
        assert_eq!(dog.asks(ms(201)), SECOND);
        assert_eq!(dog.hears(ms(1201), Heard::Nothing), HealthVerdict::Doubtful);
        assert_eq!(dog.asks(ms(1251)), LAST_CHANCE);
        let mut answers = dog.clone();
        assert_eq!(answers.hears(ms(1260), Heard::Ready), HealthVerdict::Ready);
        assert_eq!(dog.hears(ms(1351), Heard::Nothing), HealthVerdict::Dead);
    }

    #[test]
    fn an_answer_in_between_begins_anew() {
        let mut dog = Watchdog::new(rules(SECOND), ms(0));
        dog.asks(ms(0));
        dog.hears(ms(1), Heard::Ready);
        dog.asks(ms(201));
        assert_eq!(dog.hears(ms(202), Heard::Nothing), HealthVerdict::Doubtful);
        dog.asks(ms(402));
        assert_eq!(dog.hears(ms(900), Heard::NotReady), HealthVerdict::NotReady);
        dog.asks(ms(1100));
        assert_eq!(dog.hears(ms(1250), Heard::Nothing), HealthVerdict::Doubtful);
    }

    /// Both were frozen, or this agent alone: what was not heard then says nothing.
    #[test]
    fn silence_through_which_the_agent_slept_does_not_count() {
        let mut dog = Watchdog::new(rules(SECOND), ms(0));
        dog.asks(ms(0));
        dog.hears(ms(1), Heard::Ready);
        assert_eq!(dog.asks(ms(201)), SECOND);
        assert_eq!(dog.hears(ms(10_000), Heard::Nothing), HealthVerdict::Doubtful);
        assert_eq!(dog.asks(ms(10_200)), SECOND);
        assert_eq!(dog.hears(ms(10_300), Heard::Nothing), HealthVerdict::Doubtful);
        assert_eq!(dog.asks(ms(30_000)), SECOND, "it slept between two questions");
        assert_eq!(dog.hears(ms(30_100), Heard::Nothing), HealthVerdict::Doubtful);
        assert_eq!(dog.asks(ms(30_300)), ms(700));
        assert_eq!(dog.hears(ms(31_000), Heard::Nothing), HealthVerdict::Dead);
    }

    /// As nginx is judged: two answers missed in a row, however long that took.
    #[test]
    fn without_a_span_of_silence_two_questions_decide() {
        let patience = ms(250);
        let rules = Rules { last_chance: patience, patience, late: ms(50), silence: ms(0), ..rules(SECOND) };
        let mut dog = Watchdog::new(rules, ms(0));
        dog.asks(ms(0));
        dog.hears(ms(1), Heard::Ready);
        assert_eq!(dog.asks(ms(201)), patience);
        assert_eq!(dog.hears(ms(451), Heard::Nothing), HealthVerdict::Doubtful);
        assert!(dog.doubts());
        assert_eq!(dog.asks(ms(461)), patience);
        let mut starved = dog.clone();
        assert_eq!(dog.hears(ms(711), Heard::Nothing), HealthVerdict::Dead);
        starved.excuses(ms(711));
        starved.asks(ms(721));
        assert_eq!(starved.hears(ms(730), Heard::Ready), HealthVerdict::Ready);
        assert!(!starved.doubts());
    }
}
