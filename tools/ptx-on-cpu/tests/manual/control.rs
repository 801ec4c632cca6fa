//! Branches, loops, divergence, special registers, functions.

use ptx_on_cpu::{Launch, Memory, Module, Settings};

use crate::{Small, narrow, words};

#[test]
fn lanes_loop_as_often_as_they_want() {
    let body = "mov.u32 d, 0; mov.u32 r1, 0;
                again: setp.ge.u32 p, r1, a; @p bra done; add.u32 d, d, r1; add.u32 r1, r1, 1; bra again; done:";
    let operands: Vec<[u32; 3]> = (0..32).map(|lane| [lane % 7, 0, 0]).collect();
    let expected: Vec<u32> = (0..32).map(|lane| (0..lane % 7).sum()).collect();
    assert_eq!(narrow(body, &operands), expected);
}

#[test]
fn a_table_of_branches() {
    let body = "brx.idx a, table;
                table: .branchtargets zero, one, two;
                zero: mov.u32 d, 10; bra done;
                one: mov.u32 d, 11; bra done;
                two: mov.u32 d, 12;
                done:";
    assert_eq!(narrow(body, &[[2, 0, 0], [0, 0, 0], [1, 0, 0], [2, 0, 0]]), [12, 10, 11, 12]);
}

#[test]
fn inner_scopes_have_their_own_names() {
    let body = "{ .reg .b32 t1; mov.u32 t1, 5; bra out; out: add.u32 d, t1, a; }
                { .reg .b32 t1; mov.u32 t1, 7; bra out; out: add.u32 d, t1, d; }";
    assert_eq!(narrow(body, &[[1, 0, 0]]), [13]);
}

#[test]
fn lanes_that_end_early_are_not_waited_for() {
    let body = "mad.wide.u32 s0, r0, 4, w; st.global.u32 [s0], r0; setp.ge.u32 p, r0, 20; @p exit;
                bar.warp.sync -1; add.u32 d, r0, 100; st.global.u32 [s0], d;";
    let expected: Vec<u32> = (0..32).map(|lane| if lane < 20 { lane + 100 } else { lane }).collect();
    assert_eq!(words(&Small::new("", body).run_all(&[0], 128)), expected);
}

#[test]
fn dependent_grids_wait_for_what_has_ended() {
    // Launches follow each other, so a grid that waits for the one before goes on at once, and so do lanes that do not wait.
    let body = "setp.lt.u32 p, r0, 9; @p griddepcontrol.wait; griddepcontrol.launch_dependents;
                mad.wide.u32 s0, r0, 4, w; add.u32 d, r0, 1; st.global.u32 [s0], d; griddepcontrol.wait;";
    assert_eq!(words(&Small::new("", body).run_all(&[0], 128)), (1..=32).collect::<Vec<u32>>());
    for wrong in ["griddepcontrol;", "griddepcontrol.notify;", "griddepcontrol.wait r0;"] {
        let fault = Small::new("", wrong).run(&[0], 4).unwrap_err();
        assert!(fault.finding.contains("griddepcontrol") && fault.finding.contains("not known"), "{fault}");
    }
}

#[test]
fn special_registers() {
    let text = ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry kernel(.param .u64 out) {
        .reg .b32 r<16>; .reg .b64 s<4>; .reg .pred p;
        ld.param.u64 s0, [out];
        mov.u32 r0, %tid.x; mov.u32 r1, %tid.y; mov.u32 r2, %ntid.x; mov.u32 r3, %ntid.y;
        mov.u32 r4, %ctaid.x; mov.u32 r5, %ctaid.y; mov.u32 r6, %nctaid.x; mov.u32 r7, %laneid; mov.u32 r8, %warpid;
        mov.u32 r9, %cluster_ctarank; mov.u32 r10, %clusterid.x; mov.u32 r11, %lanemask_lt;
        mad.lo.u32 r12, r1, r2, r0; mul.lo.u32 r13, r2, r3; mad.lo.u32 r14, r5, r6, r4; mad.lo.u32 r12, r14, r13, r12;
        mul.lo.u32 r15, r12, 32; cvt.u64.u32 s1, r15; add.u64 s0, s0, s1;
        st.global.v4.u32 [s0], {r4, r5, r7, r8}; st.global.v4.u32 [s0+16], {r9, r10, r11, r1};
        ret; }";
    let module = Module::parse(text).unwrap();
    let memory = Memory::new();
    let out = memory.allocate(4 * 2 * 40 * 32);
    let launch = Launch {
        kernel: "kernel".into(),
        grid: [4, 2, 1],
        block: [20, 2, 1],
        cluster: [2, 1, 1],
        dynamic_shared: 0,
        parameters: out.to_le_bytes().to_vec(),
    };
    ptx_on_cpu::run(&module, &launch, &memory, &Settings::default()).unwrap();
    let values = words(&memory.read(out, 4 * 2 * 40 * 32).unwrap());
    for block in 0..8u32 {
        for thread in 0..40u32 {
            let found = &values[(block * 40 + thread) as usize * 8..][..8];
            let (lane, x, y) = (thread % 32, block % 4, block / 4);
            assert_eq!(found, [x, y, lane, thread / 32, x % 2, x / 2, (1 << lane) - 1, thread / 20]);
        }
    }
    // The same on several threads of the host.
    let settings = Settings { threads: 4, ..Settings::default() };
    let again = ptx_on_cpu::run(&module, &launch, &memory, &settings).unwrap();
    assert_eq!(words(&memory.read(out, 4 * 2 * 40 * 32).unwrap()), values);
    assert_eq!(again.thread_instructions, 8 * 40 * 23);
}

#[test]
fn functions_are_called() {
    let module = ".func (.param .b32 result) triple(.param .b32 value) {
            .reg .b32 r<4>; .reg .pred p;
            ld.param.u32 r0, [value]; setp.eq.u32 p, r0, 0; @p bra zero;
            mul.lo.u32 r1, r0, 3; st.param.b32 [result], r1; ret;
            zero: st.param.b32 [result], 99; ret; }
        .func (.param .b32 result) twice(.param .b32 value) {
            .reg .b32 r<4>;
            ld.param.u32 r0, [value];
            { .param .b32 p0; st.param.b32 [p0], r0; .param .b32 q0; call.uni (q0), triple, (p0); ld.param.b32 r1, [q0]; }
            { .param .b32 p0; st.param.b32 [p0], r1; .param .b32 q0; call.uni (q0), triple, (p0); ld.param.b32 r1, [q0]; }
            st.param.b32 [result], r1; ret; }";
    let body = "mad.wide.u32 s0, r0, 4, w;
        { .param .b32 p0; st.param.b32 [p0], r0; .param .b32 q0; call.uni (q0), twice, (p0); ld.param.b32 d, [q0]; }
        st.global.u32 [s0], d;";
    let expected: Vec<u32> = (0..32).map(|lane| if lane == 0 { 297 } else { 9 * lane }).collect();
    assert_eq!(words(&Small::new(module, body).run_all(&[0], 128)), expected);
}

#[test]
fn what_cannot_be_called_is_a_fault_with_its_line() {
    let module = ".func recursive() {\ncall recursive;\nret; }\n.extern .func outside();";
    for (call, why) in [("call recursive;", "calls itself"), ("call outside;", "outside")] {
        let fault = Small::new(module, call).run(&[0], 4).unwrap_err();
        assert!(fault.finding.contains(why) && fault.line.is_some(), "{fault}");
    }
}

#[test]
fn long_loops_are_no_deadlock() {
    let body = "mov.u32 r1, 0; again: add.u32 r1, r1, 1; setp.lt.u32 p, r1, 500000; @p bra again; mad.wide.u32 s0, r0, 4, w; st.global.u32 [s0], r1;";
    assert_eq!(words(&Small::new("", body).run(&[0], 128).unwrap()), [500_000; 32]);
}
