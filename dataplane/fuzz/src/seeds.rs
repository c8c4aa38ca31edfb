//! The seed corpus: an example of every kind of packet, and of every kind of happening in a row that makes sense.
//!
//! `cargo run -p fuzz --bin fuzz-seeds` writes it; `tests/seeds.rs` fails when the files are not what this says.

use crate::packets::{self, shape};
use crate::plan;
use crate::script::Script;

const TCP: u8 = 0;
const UDP: u8 = 1;
const PING: u8 = 2;
const PONG: u8 = 3;
const ERROR: u8 = 4;
const SCTP: u8 = 5;
const DISCOVERY: u8 = 6;
const SYN: u8 = 2;
const ACK: u8 = 16;
const RST: u8 = 4;

// Places in the lists of addresses.
const GATEWAY: u8 = 0;
const OUTSIDE: u8 = 29;
const fn namespace(instance: u8) -> u8 {
    2 + instance * 2
}
const fn instance(instance: u8) -> u8 {
    3 + instance * 2
}
const fn service(job: u8, policy: u8) -> u8 {
    18 + job * 3 + policy
}

/// A recipe as `packets::make` reads it.
#[derive(Clone, Copy)]
struct Recipe {
    shape: u8,
    from: u8,
    to: u8,
    kind: u8,
    detail: u8,
    ports: [u8; 2],
    fragment: u8,
    length: u16,
    sequence: u8,
}

impl Recipe {
    const fn new(kind: u8, from: u8, to: u8) -> Self {
        Self {
            shape: 0,
            from,
            to,
            kind,
            detail: ACK,
            ports: [0, 1],
            fragment: 0,
            length: 9,
            sequence: 1,
        }
    }

    const fn answer(mut self, from: u8, to: u8) -> Self {
        self.ports = [self.ports[1], self.ports[0]];
        (self.from, self.to) = (from, to);
        self
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![
            self.shape,
            self.from,
            self.to,
            self.kind,
            self.detail,
            self.ports[0],
            self.ports[1],
            64,
            0,
            self.fragment,
        ];
        bytes.extend_from_slice(&self.length.to_be_bytes());
        bytes.push(self.sequence);
        bytes
    }
}

/// Every packet that the recipes know, of both families, as inputs of the target `net`.
#[must_use]
pub fn packets() -> Vec<(String, Vec<u8>)> {
    let lists = plan::addresses();
    let lists = [&lists[0][..], &lists[1][..]];
    let mut seeds = Vec::new();
    for v6 in [0, shape::V6] {
        for (kind, name) in (0u8..).zip(packets::KINDS) {
            for (variant, more) in [("", 0), ("-options", shape::EXTENDED | shape::OTHER_HEADER)] {
                let mut recipe = Recipe::new(kind, namespace(0), service(1, 0));
                recipe.shape = v6 | more;
                recipe.detail = if more == 0 { ACK } else { SYN };
                recipe.length = 200;
                let mut bytes = recipe.bytes();
                bytes.extend(
                    Recipe::new(UDP, service(1, 0), namespace(0))
                        .bytes()
                        .iter()
                        .enumerate()
                        .map(|(at, byte)| if at == 0 { v6 } else { *byte }),
                );
                bytes.push(9);
                let family = if v6 == 0 { 4 } else { 6 };
                seeds.push((format!("{name:?}{variant}-v{family}").to_lowercase(), bytes));
            }
        }
        for piece in [4, 5, 7] {
            let mut recipe = Recipe::new(UDP, namespace(0), service(1, 0));
            (recipe.shape, recipe.fragment, recipe.length) = (v6, piece, 400);
            let family = if v6 == 0 { 4 } else { 6 };
            seeds.push((format!("fragment{}-v{family}", piece & 3), recipe.bytes()));
        }
    }
    // Choices: repair, a cut in the middle, pieces of 64 bytes, a limit of 1000, two addresses.
    let mut choices = vec![0, 30, 0, 64, 3, 232];
    choices.extend([10u8; 16]);
    choices.extend([7u8; 16]);
    seeds
        .into_iter()
        .map(|(name, recipe)| {
            let packet = packets::make(&mut Script::new(&recipe), lists).bytes;
            (name, [&choices[..], &packet].concat())
        })
        .collect()
}

/// A script for the target `pipeline` under construction.
struct Writing(Vec<u8>);

impl Writing {
    // Containers 0 and 1 are attached, all jobs are known: instances 0, 3, 6 (job 0), 1, 4, 7 (1), 2, 5 (2), of which 0
    // to 3 live here and the others at one of two hosts.
    fn new(workers: u8) -> Self {
        let mut writing = Self(vec![workers, 0]);
        for container in 0..2 {
            writing.step(8, &[container]);
        }
        for job in 0..3 {
            writing.step(6, &[job, 0xff, 0b1010_0000, 0]);
        }
        writing
    }

    fn step(&mut self, step: u8, fields: &[u8]) -> &mut Self {
        self.0.push(step);
        self.0.extend_from_slice(fields);
        self
    }

    fn frame(&mut self, container: u8, recipe: Recipe) -> &mut Self {
        self.step(0, &[container, 0, 0, 0]);
        self.0.extend(recipe.bytes());
        self
    }

    fn large(&mut self, container: u8, recipe: Recipe, size: u16) -> &mut Self {
        self.step(0, &[container, 0, 5, 0]);
        self.0.extend(recipe.bytes());
        self.0.extend_from_slice(&(size - 48).to_be_bytes());
        self
    }

    fn datagrams(&mut self, host: u8, recipes: &[Recipe]) -> &mut Self {
        let count = u8::try_from(recipes.len() - 1).unwrap();
        self.step(1, &[host, 0, 0, count, 0]);
        for recipe in recipes {
            self.0.extend(recipe.bytes());
        }
        self
    }

    fn host(&mut self, recipe: Recipe) -> &mut Self {
        self.step(2, &[0, 0, 0, 0]);
        self.0.extend(recipe.bytes());
        self
    }

    fn tick(&mut self, which: u8) -> &mut Self {
        self.step(3, &[which])
    }

    fn pass_on(&mut self) -> &mut Self {
        self.step(4, &[255])
    }
}

/// Scripts for the target `pipeline`.
#[must_use]
pub fn scripts() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (family, v6) in [(4, 0), (6, shape::V6)] {
        for workers in 0..3 {
            let of = |kind, from, to| Recipe {
                shape: v6,
                ..Recipe::new(kind, from, to)
            };
            let mut add = |name: &str, script: &Writing| {
                seeds.push((
                    format!("{name}-v{family}-w{}", 1 << workers),
                    script.0.clone(),
                ));
            };

            // A conversation with an instance away, then its end.
            let ask = of(TCP, namespace(0), service(1, 0));
            let mut script = Writing::new(workers);
            script.frame(0, Recipe { detail: SYN, ..ask }).pass_on();
            for away in [4, 7, 1] {
                script.datagrams(
                    u8::from(away == 7),
                    &[Recipe {
                        detail: SYN | ACK,
                        ..ask.answer(instance(away), namespace(0))
                    }],
                );
            }
            script
                .pass_on()
                .large(
                    0,
                    Recipe {
                        length: 2900,
                        ..ask
                    },
                    1300,
                )
                .tick(2);
            script.step(7, &[1]).frame(0, ask).tick(6);
            add("service", &script);

            // A server's side: asked from away, answering; and asked by a neighbour.
            let asked = of(UDP, instance(4), namespace(1));
            let mut script = Writing::new(workers);
            script
                .datagrams(0, &[asked])
                .pass_on()
                .frame(1, asked.answer(namespace(1), instance(4)))
                .frame(0, of(PING, namespace(0), instance(1)))
                .pass_on()
                .frame(1, of(PONG, namespace(1), instance(0)))
                .pass_on()
                .frame(0, of(SCTP, namespace(0), service(1, 1)))
                .pass_on();
            add("server", &script);

            // Fragments out of order, both ways, and an error about one.
            let whole = Recipe {
                length: 400,
                ..of(UDP, namespace(0), service(2, 0))
            };
            let mut script = Writing::new(workers);
            for piece in [7, 4, 5] {
                script.frame(
                    0,
                    Recipe {
                        fragment: piece,
                        ..whole
                    },
                );
                script.datagrams(
                    1,
                    &[Recipe {
                        fragment: piece,
                        ..whole.answer(instance(5), namespace(0))
                    }],
                );
                script.pass_on();
            }
            let error = of(ERROR, instance(5), namespace(0));
            script.datagrams(1, &[error]);
            script
                .0
                .extend(whole.answer(instance(0), namespace(5)).bytes());
            script.0.push(10);
            script.pass_on().tick(4);
            add("fragments", &script);

            // A stream in one burst.
            let stream = of(TCP, instance(4), namespace(0));
            let mut script = Writing::new(workers);
            let burst: Vec<_> = (1..4)
                .map(|sequence| Recipe {
                    sequence,
                    length: 100,
                    ..stream
                })
                .collect();
            script.datagrams(0, &burst).pass_on();
            script.datagrams(3, &burst[..1]).datagrams(1, &burst[..2]);
            add("burst", &script);

            // Everyone claims to be someone else.
            let mut script = Writing::new(workers);
            script
                .frame(0, of(UDP, namespace(1), instance(4)))
                .frame(0, of(UDP, namespace(1), namespace(4)))
                .frame(0, of(UDP, instance(0), instance(4)))
                .datagrams(1, &[of(UDP, instance(4), namespace(0))])
                .datagrams(0, &[of(UDP, OUTSIDE, namespace(0))])
                .datagrams(3, &[of(UDP, instance(4), namespace(0))])
                .datagrams(0, &[of(UDP, instance(4), namespace(2))])
                .host(of(UDP, namespace(0), instance(4)))
                .pass_on();
            add("spoofed", &script);

            // The node itself, the outside, nobody.
            let mut script = Writing::new(workers);
            script
                .step(10, &[0])
                .host(of(TCP, GATEWAY, service(1, 0)))
                .pass_on()
                .datagrams(0, &[of(TCP, instance(4), GATEWAY)])
                .pass_on()
                .host(of(UDP, OUTSIDE, namespace(0)))
                .pass_on()
                .frame(0, of(UDP, namespace(0), OUTSIDE))
                .frame(0, of(UDP, namespace(0), 27))
                .step(11, &[u8::from(v6 != 0), 27])
                .tick(1)
                .frame(0, of(TCP, namespace(0), namespace(6)))
                .frame(1, of(DISCOVERY, namespace(1), GATEWAY))
                .step(13, &[0, 0, namespace(0), GATEWAY]);
            add("host", &script);

            // Containers and routes come and go meanwhile; mbufs and rings run short.
            let mut script = Writing::new(workers);
            script
                .frame(0, of(UDP, namespace(0), service(1, 2)))
                .step(9, &[1])
                .frame(0, of(UDP, namespace(0), service(1, 2)))
                .step(8, &[1])
                .step(6, &[1, 0xff, 0, 0x23])
                .step(5, &[1])
                .frame(0, of(TCP, namespace(0), service(1, 0)))
                .step(5, &[0])
                .step(14, &[2])
                .large(
                    0,
                    Recipe {
                        length: 2900,
                        ..of(TCP, namespace(0), instance(4))
                    },
                    500,
                )
                .step(14, &[0])
                .frame(
                    0,
                    Recipe {
                        detail: RST,
                        ..of(TCP, namespace(0), service(1, 0))
                    },
                )
                .tick(7);
            add("churn", &script);
        }
    }
    seeds
}
