//! What lanes do together.

use crate::{Small, bytes, words};

/// The word of each of 32 lanes behind `body`, which has its input in `a` and leaves `d`.
fn lanes(body: &str, input: &[u32]) -> Vec<u32> {
    let body = format!(
        "mad.wide.u32 s0, r0, 4, v; ld.global.u32 a, [s0];\n{body}\nmad.wide.u32 s0, r0, 4, w; st.global.u32 [s0], d;"
    );
    words(&Small::new("", &body).run_all(&bytes(input), 128))
}

fn numbers() -> Vec<u32> {
    (0..32).map(|lane| 100 + lane).collect()
}

#[test]
fn shuffles() {
    let input = numbers();
    let expect = |of: &dyn Fn(usize) -> usize| (0..32).map(|lane| input[of(lane)]).collect::<Vec<_>>();
    // The clamp of `up` is 0, of the others 31; lanes that would read outside keep their own.
    assert_eq!(
        lanes("shfl.sync.up.b32 d, a, 3, 0, -1;", &input),
        expect(&|lane| if lane < 3 { lane } else { lane - 3 })
    );
    assert_eq!(
        lanes("shfl.sync.down.b32 d, a, 5, 31, -1;", &input),
        expect(&|lane| if lane > 26 { lane } else { lane + 5 })
    );
    assert_eq!(lanes("shfl.sync.bfly.b32 d, a, 7, 31, -1;", &input), expect(&|lane| lane ^ 7));
    assert_eq!(lanes("shfl.sync.idx.b32 d, a, 9, 31, -1;", &input), expect(&|_| 9));
    // Segments of 8 lanes: mask 0x18 in bits 8 to 12.
    assert_eq!(lanes("shfl.sync.idx.b32 d, a, 10, 0x181f, -1;", &input), expect(&|lane| lane / 8 * 8 + 2));
    let up = "shfl.sync.up.b32 d|p, a, 1, 0x1800, -1; @!p mov.u32 d, 7;";
    let expected: Vec<u32> = (0..32).map(|lane| if lane % 8 == 0 { 7 } else { input[lane - 1] }).collect();
    assert_eq!(lanes(up, &input), expected);
}

#[test]
fn votes_and_reductions() {
    let input: Vec<u32> = (0..32).map(|lane| (lane * 7 + 3) % 32).collect();
    let below = input.iter().enumerate().fold(0, |bits, (lane, x)| bits | u32::from(*x < 10) << lane);
    assert_eq!(lanes("setp.lt.u32 p, a, 10; vote.sync.ballot.b32 d, p, -1;", &input), [below; 32]);
    let all = |mode: &str, limit: u32| {
        format!("setp.lt.u32 p, a, {limit}; vote.sync.{mode}.pred q, p, -1; selp.u32 d, 1, 0, q;")
    };
    assert_eq!(lanes(&all("all", 32), &input), [1; 32]);
    assert_eq!(lanes(&all("all", 31), &input), [0; 32]);
    assert_eq!(lanes(&all("any", 1), &input), [1; 32]);
    assert_eq!(lanes(&all("any", 0), &input), [0; 32]);
    assert_eq!(lanes(&all("uni", 0), &input), [1; 32]);
    assert_eq!(lanes(&all("uni", 5), &input), [0; 32]);
    let signed: Vec<u32> = (0..32).map(|lane| (5 - lane) as u32).collect();
    assert_eq!(lanes("redux.sync.min.s32 d, a, -1;", &signed), [-26i32 as u32; 32]);
    assert_eq!(lanes("redux.sync.max.s32 d, a, -1;", &signed), [5; 32]);
    assert_eq!(lanes("redux.sync.max.u32 d, a, -1;", &signed), [u32::MAX; 32]);
    assert_eq!(lanes("redux.sync.add.s32 d, a, -1;", &numbers()), [3200 + 496; 32]);
    assert_eq!(lanes("redux.sync.or.b32 d, a, -1;", &numbers()), [0xff; 32]);
    assert_eq!(lanes("redux.sync.xor.b32 d, a, -1;", &[1; 32]), [0; 32]);
}

#[test]
fn halves_of_a_warp_reduce_on_their_own() {
    let body = "setp.lt.u32 p, r0, 16; @p bra low; redux.sync.add.s32 d, a, 0xffff0000; bra done;
                low: redux.sync.add.s32 d, a, 0x0000ffff; done: bar.warp.sync -1;";
    let (low, high) = (100 * 16 + 120, 116 * 16 + 120);
    let expected: Vec<u32> = (0..32).map(|lane| if lane < 16 { low } else { high }).collect();
    assert_eq!(lanes(body, &numbers()), expected);
}

#[test]
fn equal_lanes_find_each_other() {
    let input: Vec<u32> = (0..32).map(|lane| lane % 3).collect();
    let mask = |rest: u32| (0..32).filter(|lane| lane % 3 == rest).fold(0, |mask, lane| mask | 1u32 << lane);
    let expected: Vec<u32> = (0..32).map(|lane| mask(lane % 3)).collect();
    assert_eq!(lanes("match.any.sync.b32 d, a, -1;", &input), expected);
    assert_eq!(lanes("match.all.sync.b32 d|p, a, -1; @p add.u32 d, d, 1;", &[4; 32]), [0; 32]);
    assert_eq!(lanes("match.all.sync.b32 d|p, a, -1;", &input), [0; 32]);
}

#[test]
fn the_first_lane_is_elected() {
    let first_only: Vec<u32> = (0..32).map(|lane| if lane == 0 { 0 } else { 7 }).collect();
    assert_eq!(lanes("mov.u32 d, 7; elect.sync b|p, -1; @p mov.u32 d, b;", &numbers()), first_only);
}

#[test]
fn active_lanes() {
    let body = "mov.u32 d, 0; setp.lt.u32 p, r0, 5; @!p bra done; activemask.b32 d; done: bar.warp.sync -1;";
    let expected: Vec<u32> = (0..32).map(|lane| if lane < 5 { 31 } else { 0 }).collect();
    let body = format!("{body} mad.wide.u32 s0, r0, 4, w; st.global.u32 [s0], d;");
    assert_eq!(words(&Small::new("", &body).run(&[0; 4], 128).unwrap()), expected);
}

#[test]
fn lanes_with_other_members_act_apart() {
    // Odd and even lanes at the same instruction.
    let body =
        "and.b32 b, r0, 1; setp.eq.u32 p, b, 0; selp.u32 c, 0x55555555, 0xaaaaaaaa, p; redux.sync.add.u32 d, r0, c;";
    let expected: Vec<u32> = (0..32).map(|lane| if lane % 2 == 0 { 240 } else { 256 }).collect();
    assert_eq!(lanes(body, &numbers()), expected);
}
