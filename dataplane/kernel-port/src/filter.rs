//! Which worker gets what an interface sends, as a classic BPF program.
//!
//! One unbound socket sees every interface of the namespace; the kernel runs its filter on all of
//! them. A chain of comparisons would cost 250 containers 125 steps a frame; a binary search costs 8.
//!
//! The answer is a function of the interface index that is constant between boundaries. Containers
//! attached in a row have indexes in a row, so their intervals merge and the program stays short.

use crate::KernelPortError;

/// The kernel's limit for one program, `BPF_MAXINSNS`.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// What a filter returns for a frame that passes: keep this many bytes, more than any frame has.
pub const WHOLE_FRAME: u32 = 0x0004_0000;

const LOAD_WORD_ABSOLUTE: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;
/// `SKF_AD_OFF + SKF_AD_IFINDEX`: the kernel's name for the receiving interface's index.
const INTERFACE_INDEX: u32 = 0xffff_f008;

/// One instruction, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub if_true: u8,
    /// Instructions to skip when it does not.
    pub if_false: u8,
    /// Operand.
    pub operand: u32,
}

const fn instruction(code: u16, operand: u32) -> Instruction {
    Instruction {
        code,
        if_true: 0,
        if_false: 0,
        operand,
    }
}

/// The program that passes nothing.
pub const NOTHING: [Instruction; 1] = [instruction(RETURN, 0)];

/// A program that returns `value` for each `(interface, value)` and 0 for every other interface.
///
/// Where an interface is named twice the last value counts.
///
/// # Errors
/// [`KernelPortError::TooManyInterfaces`] beyond [`MAX_INSTRUCTIONS`]: about 1000 scattered indexes.
pub fn by_interface(values: &[(u32, u32)]) -> Result<Vec<Instruction>, KernelPortError> {
    let steps = steps(values);
    if let [(_, value)] = steps[..] {
        return Ok(vec![instruction(RETURN, value)]);
    }
    let mut program = vec![instruction(LOAD_WORD_ABSOLUTE, INTERFACE_INDEX)];
    search(&steps, &mut program);
    if program.len() > MAX_INSTRUCTIONS {
        return Err(KernelPortError::TooManyInterfaces {
            interfaces: values.len(),
            instructions: program.len(),
        });
    }
    Ok(program)
}

/// The function as steps: from `.0` upwards, to the next one's start, it is `.1`. The first starts at 0.
fn steps(values: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let by_index: std::collections::BTreeMap<u32, u32> = values.iter().copied().collect();
    let mut steps = vec![(0, 0)];
    let mut next = 0;
    for (index, value) in by_index {
        if index > next {
            step(&mut steps, next, 0);
        }
        step(&mut steps, index, value);
        match index.checked_add(1) {
            Some(following) => next = following,
            None => return steps,
        }
    }
    step(&mut steps, next, 0);
    steps
}

fn step(steps: &mut Vec<(u32, u32)>, start: u32, value: u32) {
    match steps.last_mut() {
        Some(last) if last.1 == value => {}
        Some(last) if last.0 == start => last.1 = value,
        _ => steps.push((start, value)),
    }
}

fn search(steps: &[(u32, u32)], program: &mut Vec<Instruction>) {
    let (lower, upper) = steps.split_at(steps.len() / 2);
    let (Some(_), Some(&(pivot, _))) = (lower.first(), upper.first()) else {
        program.extend(upper.first().map(|&(_, value)| instruction(RETURN, value)));
        return;
    };
    let here = program.len();
    program.push(instruction(JUMP_IF_GREATER_OR_EQUAL, pivot));
    search(lower, program);
    // A comparison skips 255 instructions at most, a plain jump any number. Jumps are relative, so
    // those inside the lower half stay right when it moves.
    let distance = program.len() - here - 1;
    match u8::try_from(distance) {
        Ok(near) => program[here].if_true = near,
        Err(_) => {
            program[here].if_false = 1;
            let far = u32::try_from(distance).unwrap_or(u32::MAX);
            program.insert(here + 1, instruction(JUMP, far));
        }
    }
    search(upper, program);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel's checker and interpreter do with the subset used here.
    fn run(program: &[Instruction], interface: u32) -> (u32, usize) {
        let (mut at, mut accumulator, mut executed) = (0, 0, 0);
        loop {
            let now = program[at];
            executed += 1;
            match now.code {
                LOAD_WORD_ABSOLUTE => {
                    assert_eq!(now.operand, INTERFACE_INDEX);
                    accumulator = interface;
                }
                JUMP => at += now.operand as usize,
                JUMP_IF_GREATER_OR_EQUAL => {
                    at += usize::from(if accumulator >= now.operand {
                        now.if_true
                    } else {
                        now.if_false
                    });
                }
                RETURN => return (now.operand, executed),
                other => panic!("unknown operation {other:#x}"),
            }
            at += 1;
        }
    }

    fn check(values: &[(u32, u32)]) -> Vec<Instruction> {
        let program = by_interface(values).unwrap();
        let expected: std::collections::HashMap<u32, u32> = values.iter().copied().collect();
        let mut probes = vec![0, 1, u32::MAX, u32::MAX - 1];
        for &(index, _) in values {
            probes.extend([index, index.wrapping_sub(1), index.wrapping_add(1)]);
        }
        for probe in probes {
            let (value, _) = run(&program, probe);
            assert_eq!(value, expected.get(&probe).copied().unwrap_or(0), "{probe}");
        }
        program
    }

    #[test]
    fn nothing_passes_without_interfaces() {
        assert_eq!(check(&[]), NOTHING);
    }

    #[test]
    fn neighbours_merge_into_one_interval() {
        assert_eq!(
            check(&[(8, 9), (7, 9), (9, 9)]).len(),
            check(&[(7, 9)]).len()
        );
    }

    #[test]
    fn the_ends_of_the_index_range_work() {
        check(&[(u32::MAX, 3)]);
        check(&[(1, 3), (u32::MAX, 4), (u32::MAX - 1, 4)]);
        check(&[(5, 1), (6, 2), (7, 1), (9, 2)]);
    }

    #[test]
    fn scattered_interfaces_are_found_in_logarithmic_time() {
        for count in [2_u32, 3, 63, 64, 65, 250, 600, 1000] {
            let values: Vec<_> = (0..count).map(|i| (3 + i * 7, 1 + i % 3)).collect();
            let program = check(&values);
            let depth = usize::try_from((2 * count + 1).next_power_of_two().ilog2()).unwrap();
            let bound = 2 * depth + 2;
            for &(index, _) in &values {
                assert!(run(&program, index).1 <= bound, "{count} interfaces");
            }
        }
    }

    #[test]
    fn too_many_interfaces_are_refused_by_number() {
        let values: Vec<_> = (0..1100).map(|i| (3 + i * 7, 1)).collect();
        let error = by_interface(&values).unwrap_err();
        assert!(error.to_string().contains("1100 interfaces"), "{error}");
    }

    #[test]
    fn random_sets_agree_with_a_map() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: u32| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            u32::try_from(state >> 40).unwrap() % below
        };
        for _ in 0..300 {
            let count = random(40);
            let values: Vec<_> = (0..count)
                .map(|_| (1 + random(90), 1 + random(3)))
                .collect();
            check(&values);
        }
    }
}
