/* The one header that bindgen reads and the one place that lists what we use of DPDK.
 *
 * DPDK's hot functions are `static inline`, so they have no symbol to bind to: shim.c gives each one
 * that we use a symbol, per burst where a call per packet would show. Structures whose layout is all
 * bit fields and unions (rte_eth_conf, rte_eth_dev_info) stay on the C side too. */
#ifndef OAKESTRA_DPDK_H
#define OAKESTRA_DPDK_H

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mbuf_dyn.h>
#include <rte_mempool.h>
#include <rte_pdump.h>
#include <rte_ring.h>

/* Limits that the safe crate checks before EAL would. */
enum dpdk_limit {
	DPDK_MAX_LCORE = RTE_MAX_LCORE,
	DPDK_MAX_ETHPORTS = RTE_MAX_ETHPORTS,
	DPDK_MBUF_HEADROOM = RTE_PKTMBUF_HEADROOM,
	DPDK_SOCKET_ANY = SOCKET_ID_ANY,
	DPDK_NAME_MAX = RTE_MEMPOOL_NAMESIZE - 1,
};

int dpdk_errno(void);
uint64_t dpdk_rdtsc(void);

/* The byte offset of our 64-bit dynamic field: zeroed in every mbuf that alloc or rx hands out. */
void dpdk_set_tag_offset(int offset);

struct rte_mbuf *dpdk_mbuf_alloc(struct rte_mempool *pool);
int dpdk_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **into, unsigned int n);
void dpdk_mbuf_free(struct rte_mbuf *m);
void dpdk_mbuf_free_seg(struct rte_mbuf *m);
void dpdk_mbuf_attach(struct rte_mbuf *indirect, struct rte_mbuf *m);
uint16_t dpdk_pool_data_room(struct rte_mempool *pool);
/* What the compiler makes of the bit fields of rte_mbuf.tx_offload; the Rust side is tested against it. */
void dpdk_mbuf_tx_lengths(const struct rte_mbuf *m, uint64_t into[4]);

unsigned int dpdk_ring_enqueue_burst(struct rte_ring *r, void *const *items, unsigned int n);
unsigned int dpdk_ring_dequeue_burst(struct rte_ring *r, void **items, unsigned int n);

uint16_t dpdk_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **into, uint16_t n);
uint16_t dpdk_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **from, uint16_t n);
uint16_t dpdk_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **from, uint16_t n);

struct dpdk_port_info {
	struct rte_device *device;
	uint16_t max_rx_queues;
	uint16_t max_tx_queues;
	uint16_t min_mtu;
	uint16_t max_mtu;
	uint16_t rx_desc_min;
	uint16_t rx_desc_max;
	uint16_t rx_desc_align;
	uint16_t tx_desc_min;
	uint16_t tx_desc_max;
	uint16_t tx_desc_align;
	unsigned int if_index;
	char driver[32];
};
int dpdk_port_info(uint16_t port, struct dpdk_port_info *into);

/* What a configured device does by itself. */
enum dpdk_grant {
	DPDK_FINISHES_CHECKSUMS = 1, /* TCP and UDP */
	DPDK_CUTS_TCP = 2,
	DPDK_TAKES_CHAINS = 4,
};

/* What `offloads` may ask for, each as far as the device has it. */
enum dpdk_ask {
	DPDK_ASK_SEND = 1,    /* finish checksums, cut segments */
	DPDK_ASK_RECEIVE = 2, /* hand over unfinished checksums and joined TCP */
};

/* Configures the device and sets up all its queues, with bits of `dpdk_ask`; what it granted comes back as bits of `dpdk_grant`. */
int dpdk_port_configure(uint16_t port, uint16_t rx_queues, uint16_t tx_queues, uint16_t rx_desc, uint16_t tx_desc,
			uint16_t mtu, int rss, unsigned int offloads, struct rte_mempool *pool, unsigned int *granted);
int dpdk_port_link(uint16_t port, int *up, uint32_t *mbps);

#endif
