mod objects;
pub use objects::*;
