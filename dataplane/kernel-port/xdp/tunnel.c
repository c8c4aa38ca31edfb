/* SPDX-License-Identifier: Apache-2.0
 *
 * Takes the tunnel's datagrams from an interface that the kernel shares, and nothing else: whole UDP datagrams to the
 * tunnel port, over IPv4 and IPv6, on queues that have a socket. The af_xdp PMD's own program takes all there is, and
 * with it the host's connections. Fragments and ICMP errors go to the kernel, which puts them together and knows what
 * they are about, and has a socket of ours to hand them to.
 *
 * Needs no header but this: what is declared here is the kernel's stable interface (linux/bpf.h).
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SECTION(name) __attribute__((section(name), used))
#define BIG_ENDIAN_16(value) ((u16)((u16)(value) << 8 | (u16)(value) >> 8))

enum { XDP_PASS = 2 };
enum { MAP_TYPE_XSKMAP = 17 };
enum { PROTOCOL_UDP = 17 };
enum { QUEUES = 64 };

struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
	u32 egress_ifindex;
};

static long (*const redirect_map)(void *map, u64 key, u64 otherwise) = (void *)51;

/* The PMD looks for it by this name and puts its sockets there. */
struct {
	int (*type)[MAP_TYPE_XSKMAP];
	int (*key_size)[4];
	int (*value_size)[4];
	int (*max_entries)[QUEUES];
} xsks_map SECTION(".maps");

/* Network byte order; written into the object, behind the mark, before it is loaded. */
const volatile struct {
	u8 mark[14];
	u16 port;
} tunnel = { "oakestra-port", 0 };

struct ethernet {
	u8 destination[6], source[6];
	u16 type;
} __attribute__((packed));

struct ipv4 {
	u8 version_length, tos;
	u16 total_length, id, fragment;
	u8 ttl, protocol;
	u16 checksum;
	u32 source, destination;
} __attribute__((packed));

struct ipv6 {
	u32 version_class_label;
	u16 payload_length;
	u8 next_header, hop_limit;
	u8 source[16], destination[16];
} __attribute__((packed));

struct udp {
	u16 source, destination, length, checksum;
} __attribute__((packed));

SECTION("xdp")
int oak_tunnel(struct xdp_md *context)
{
	void *end = (void *)(unsigned long)context->data_end;
	struct ethernet *ethernet = (void *)(unsigned long)context->data;
	struct udp *udp;

	if ((void *)(ethernet + 1) > end)
		return XDP_PASS;
	if (ethernet->type == BIG_ENDIAN_16(0x0800)) {
		struct ipv4 *ip = (void *)(ethernet + 1);

		if ((void *)(ip + 1) > end || ip->protocol != PROTOCOL_UDP)
			return XDP_PASS;
		/* More fragments, or an offset. Options are nobody's in a tunnel. */
		if ((ip->fragment & BIG_ENDIAN_16(0x3fff)) || ip->version_length != 0x45)
			return XDP_PASS;
		udp = (void *)(ip + 1);
	} else if (ethernet->type == BIG_ENDIAN_16(0x86dd)) {
		struct ipv6 *ip = (void *)(ethernet + 1);

		if ((void *)(ip + 1) > end || ip->next_header != PROTOCOL_UDP)
			return XDP_PASS;
		udp = (void *)(ip + 1);
	} else {
		return XDP_PASS;
	}
	if ((void *)(udp + 1) > end || udp->destination != tunnel.port)
		return XDP_PASS;
	/* A queue without a socket is the kernel's, too. */
	return redirect_map(&xsks_map, context->rx_queue_index, XDP_PASS);
}

char terms[] SECTION("license") = "Apache-2.0";
