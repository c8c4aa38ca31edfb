//! The messages of the Oakestra Net contract.
