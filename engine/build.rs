//! The migrations are embedded by a macro that reads a folder; without this line cargo would not see a new file.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
