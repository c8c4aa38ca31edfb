//! Whole-system tests in network namespaces, and the demo.
