//! The line of a drop, checked in the same way: joining, changing and leaving, the seal, the draw, rounds by two
//! workers, and the close, in every order in which they can fall.

mod guards;
mod state;
mod actions;
mod places;
mod draw;
mod rounds;
mod workers;
mod promises;
mod check;
