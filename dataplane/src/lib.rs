//! The packet pipeline: classify, translate, deliver or encapsulate.
