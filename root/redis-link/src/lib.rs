//! A Redis connection that outlives its server.
