//! What needs a container engine and the images of `make images`, as one program: `images/test.sh containers` runs its
//! modules one after the other, because each of them has a fleet.

mod engine;
mod fleet;
mod image;
mod intruders;
mod observe;
