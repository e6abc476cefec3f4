//! The fleet's tests on the testbed, as one program: each one more is linked with all that it uses. Beside it stand those
//! that need containers, and `busy`, which makes every other test late.

mod commands;
mod drain;
mod edge;
mod fleet;
mod garbage;
mod history;
mod itself;
mod keeper;
mod leader;
mod links;
mod marks;
mod nginx;
mod parts;
mod presence;
mod registry;
mod requests;
mod supervised;
mod tls;
mod up;
mod versions;
mod watching;
