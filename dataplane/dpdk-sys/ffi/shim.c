/* Symbols for DPDK's static inlines; see dpdk.h. */
#include "dpdk.h"

#include <string.h>

_Static_assert(sizeof(struct rte_mbuf) == 128, "an mbuf header is two cache lines");
_Static_assert(RTE_MBUF_L2_LEN_BITS == 7 && RTE_MBUF_L3_LEN_BITS == 9 && RTE_MBUF_L4_LEN_BITS == 8 &&
		       RTE_MBUF_TSO_SEGSZ_BITS == 16,
	       "the Rust side packs tx_offload itself");

static size_t tag_offset = offsetof(struct rte_mbuf, dynfield1);

int dpdk_errno(void)
{
	return rte_errno;
}

uint64_t dpdk_rdtsc(void)
{
	return rte_rdtsc();
}

void dpdk_set_tag_offset(int offset)
{
	tag_offset = (size_t)offset;
}

static inline void clear_tag(struct rte_mbuf *m)
{
	*(uint64_t *)RTE_PTR_ADD(m, tag_offset) = 0;
}

struct rte_mbuf *dpdk_mbuf_alloc(struct rte_mempool *pool)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(pool);

	if (likely(m != NULL))
		clear_tag(m);
	return m;
}

int dpdk_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **into, unsigned int n)
{
	int rc = rte_pktmbuf_alloc_bulk(pool, into, n);

	if (likely(rc == 0))
		for (unsigned int i = 0; i < n; i++)
			clear_tag(into[i]);
	return rc;
}

void dpdk_mbuf_free(struct rte_mbuf *m)
{
	rte_pktmbuf_free(m);
}

void dpdk_mbuf_free_seg(struct rte_mbuf *m)
{
	rte_pktmbuf_free_seg(m);
}

void dpdk_mbuf_attach(struct rte_mbuf *indirect, struct rte_mbuf *m)
{
	rte_pktmbuf_attach(indirect, m);
}

uint16_t dpdk_pool_data_room(struct rte_mempool *pool)
{
	return rte_pktmbuf_data_room_size(pool);
}

void dpdk_mbuf_tx_lengths(const struct rte_mbuf *m, uint64_t into[4])
{
	into[0] = m->l2_len;
	into[1] = m->l3_len;
	into[2] = m->l4_len;
	into[3] = m->tso_segsz;
}

unsigned int dpdk_ring_enqueue_burst(struct rte_ring *r, void *const *items, unsigned int n)
{
	return rte_ring_enqueue_burst(r, items, n, NULL);
}

unsigned int dpdk_ring_dequeue_burst(struct rte_ring *r, void **items, unsigned int n)
{
	return rte_ring_dequeue_burst(r, items, n, NULL);
}

uint16_t dpdk_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **into, uint16_t n)
{
	const uint64_t requests = RTE_MBUF_F_TX_L4_MASK | RTE_MBUF_F_TX_TCP_SEG | RTE_MBUF_F_TX_UDP_SEG;
	uint16_t got = rte_eth_rx_burst(port, queue, into, n);

	/* A driver fills only the first cache line: what the last owner left in the second must not look
	 * like an offload request. Rings pass mbufs on as they are, requests included. */
	for (uint16_t i = 0; i < got; i++) {
		if (i + 4 < got)
			rte_prefetch0(RTE_PTR_ADD(into[i + 4], RTE_CACHE_LINE_SIZE));
		if (likely((into[i]->ol_flags & requests) == 0)) {
			/* Of a joined packet, the driver says there what it is to be cut by. */
			uint16_t size = into[i]->tso_segsz;

			into[i]->tx_offload = 0;
			if (unlikely(into[i]->ol_flags & RTE_MBUF_F_RX_LRO))
				into[i]->tso_segsz = size;
		}
		clear_tag(into[i]);
	}
	return got;
}

uint16_t dpdk_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **from, uint16_t n)
{
	return rte_eth_tx_burst(port, queue, from, n);
}

uint16_t dpdk_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **from, uint16_t n)
{
	return rte_eth_tx_prepare(port, queue, from, n);
}

int dpdk_port_info(uint16_t port, struct dpdk_port_info *into)
{
	struct rte_eth_dev_info info;
	int rc = rte_eth_dev_info_get(port, &info);

	memset(into, 0, sizeof(*into));
	if (rc != 0)
		return rc;
	into->device = info.device;
	into->max_rx_queues = info.max_rx_queues;
	into->max_tx_queues = info.max_tx_queues;
	into->min_mtu = info.min_mtu;
	into->max_mtu = info.max_mtu;
	into->rx_desc_min = info.rx_desc_lim.nb_min;
	into->rx_desc_max = info.rx_desc_lim.nb_max;
	into->rx_desc_align = info.rx_desc_lim.nb_align;
	into->tx_desc_min = info.tx_desc_lim.nb_min;
	into->tx_desc_max = info.tx_desc_lim.nb_max;
	into->tx_desc_align = info.tx_desc_lim.nb_align;
	into->if_index = info.if_index;
	if (info.driver_name != NULL)
		strncpy(into->driver, info.driver_name, sizeof(into->driver) - 1);
	return 0;
}

int dpdk_port_configure(uint16_t port, uint16_t rx_queues, uint16_t tx_queues, uint16_t rx_desc, uint16_t tx_desc,
			uint16_t mtu, int rss, unsigned int offloads, struct rte_mempool *pool, unsigned int *granted)
{
	const uint64_t requests = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM |
				  RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_SCTP_CKSUM |
				  RTE_ETH_TX_OFFLOAD_TCP_TSO | RTE_ETH_TX_OFFLOAD_UDP_TSO;
	const uint64_t checksums = RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
	const uint64_t unfinished = RTE_ETH_RX_OFFLOAD_TCP_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM |
				    RTE_ETH_RX_OFFLOAD_TCP_LRO;
	struct rte_eth_dev_info info;
	struct rte_eth_conf conf;
	int socket, rc;

	rc = rte_eth_dev_info_get(port, &info);
	if (rc != 0)
		return rc;
	memset(&conf, 0, sizeof(conf));
	/* Chains are what the pipeline hands over; a driver without the flag takes single segments only. */
	conf.txmode.offloads = info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
	if (offloads & DPDK_ASK_SEND)
		conf.txmode.offloads |= info.tx_offload_capa & requests;
	conf.rxmode.mtu = mtu;
	if (rss && rx_queues > 1) {
		conf.rx_adv_conf.rss_conf.rss_hf = info.flow_type_rss_offloads &
						   (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_SCTP);
		if (conf.rx_adv_conf.rss_conf.rss_hf != 0) {
			conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
			conf.rxmode.offloads |= info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_RSS_HASH;
		}
	}
	if (offloads & DPDK_ASK_RECEIVE)
		conf.rxmode.offloads |= info.rx_offload_capa & unfinished;
	/* A packet may be longer than one mbuf of the pool. */
	if (conf.rxmode.offloads & RTE_ETH_RX_OFFLOAD_TCP_LRO || (uint32_t)mtu + RTE_ETHER_HDR_LEN + 8 + RTE_PKTMBUF_HEADROOM > rte_pktmbuf_data_room_size(pool))
		conf.rxmode.offloads |= info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER;

	rc = rte_eth_dev_configure(port, rx_queues, tx_queues, &conf);
	if (rc != 0)
		return rc;
	rc = rte_eth_dev_adjust_nb_rx_tx_desc(port, &rx_desc, &tx_desc);
	if (rc != 0)
		return rc;
	socket = rte_eth_dev_socket_id(port);
	for (uint16_t q = 0; q < rx_queues; q++) {
		struct rte_eth_rxconf rx = info.default_rxconf;

		rx.offloads = conf.rxmode.offloads;
		rc = rte_eth_rx_queue_setup(port, q, rx_desc, (unsigned int)socket, &rx, pool);
		if (rc != 0)
			return rc;
	}
	for (uint16_t q = 0; q < tx_queues; q++) {
		struct rte_eth_txconf tx = info.default_txconf;

		tx.offloads = conf.txmode.offloads;
		rc = rte_eth_tx_queue_setup(port, q, tx_desc, (unsigned int)socket, &tx);
		if (rc != 0)
			return rc;
	}
	*granted = 0;
	if ((conf.txmode.offloads & checksums) == checksums)
		*granted |= DPDK_FINISHES_CHECKSUMS;
	if (conf.txmode.offloads & RTE_ETH_TX_OFFLOAD_TCP_TSO)
		*granted |= DPDK_CUTS_TCP;
	if (conf.txmode.offloads & RTE_ETH_TX_OFFLOAD_MULTI_SEGS)
		*granted |= DPDK_TAKES_CHAINS;
	return 0;
}

int dpdk_port_link(uint16_t port, int *up, uint32_t *mbps)
{
	struct rte_eth_link link;
	int rc = rte_eth_link_get_nowait(port, &link);

	if (rc != 0)
		return rc;
	*up = link.link_status == RTE_ETH_LINK_UP;
	*mbps = link.link_speed == RTE_ETH_SPEED_NUM_UNKNOWN ? 0 : link.link_speed;
	return 0;
}
