//! muster's protocol as a model that is searched exhaustively: join, drain, crash, suspicion, election and leader
//! change, with etcd as a linearizable store whose watch may lag. `docs/protocol.md` tells it in sentences.
//!
//! | module | what is there |
//! |---|---|
//! | [`etcd`] | the watched range at one revision, and the transactions on it |
//! | [`state`] | everything that may differ between two moments |
//! | [`mechanism`] | what guards the rules, each of which can be taken out |
//! | [`scene`] | what is there at the beginning, and how much may go wrong |
//! | [`step`] | everything that may happen |
//! | `node`, `leader`, `envoy`, `fault` | what each step does, by who does it |
//! | [`canon`] | two states that differ in names of revisions only are one |
//! | [`protocol`] | the above as a stateright model |
//! | [`rules`] | what must hold always, and what when nothing happens any more |
//! | [`mutant`] | the protocol without a mechanism, and the rule that breaks then |
//! | [`rest`] | that nothing goes on for ever by itself |
//! | [`words`] | steps and states in sentences |

mod canon;
mod envoy;
pub mod etcd;
mod fault;
mod leader;
pub mod mechanism;
pub mod mutant;
mod node;
pub mod protocol;
pub mod rest;
pub mod rules;
pub mod scene;
pub mod state;
pub mod step;
pub mod words;

pub use mechanism::Mechanism;
pub use mutant::Mutant;
pub use protocol::Protocol;
pub use scene::Scene;
pub use step::Step;
