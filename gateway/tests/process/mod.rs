//! The real program as a process: its exit codes, its signals, and what is left when it is killed with -9.

mod program;
mod configuration;
mod check_config;
mod output;
mod json;
mod shells;
mod privileges;
mod drops;
mod signals;
mod killed;
mod finance;
mod review;
mod settlement;
mod logs;
mod neighbours;
mod crash {
    mod stage;
    mod judge;
    mod line;
    mod play;
    mod matrix;
    mod faults;
}
