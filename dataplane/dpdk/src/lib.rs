//! Safe DPDK: EAL, mempools, mbufs, ports, worker lcores.
