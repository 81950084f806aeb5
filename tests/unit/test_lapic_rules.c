/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The LAPIC against a table of what the Intel SDM says in the chapter "Advanced Programmable
 * Interrupt Controller (APIC)": four of them on a bus, and for each rule what is done and seen.
 */
#include <virtx/lapic.h>

#include <check.h>
#include <stdlib.h>

/*
 * Words apart by spaces, in order; "N:" before one means LAPIC N instead of 0. Numbers are
 * hexadecimal, "--" stands for none. All four are software-enabled at the start.
 *     X<V X>V      writes V to the register at offset X of the page; reads V there
 *     mX<V mX>V    the same with an MSR; mX#V: the write is a #GP; mX*: so is the read
 *     ?V !V        V is pending; an acknowledge cycle gives V
 *     EV LV        the vector comes from outside as an edge, as a level
 *     e BV         EOI; the last vector whose EOI went to the I/O APICs since this was asked last
 *     nKV          V events of kind K (delivery mode) came for the processor since asked last
 *     lP+ lP-      the pin LINT P is raised, lowered
 *     sK           local source K (enum virtx_lapic_lvt) fires
 *     xV           the 8259's vector
 *     tT dT        the time is T; the next deadline is T
 *     aV           the page is at V
 *     rI rP        INIT; power-up
 */
static const struct {
    const char *rule, *steps;
} rules[] = {
    /* "Local Vector Table". */
    {"LVT timer: no delivery mode", "320<1ff30 320>10030"},
    {"LVT thermal: fixed", "330<41 s1 !41 e ?--"},
    {"LVT thermal: masked", "330<10041 s1 ?--"},
    {"LVT thermal: NMI", "330<400 s1 n41 ?--"},
    {"LVT thermal: SMI", "330<200 s1 n21 n40"},
    {"LVT thermal: illegal vector", "330<f s1 ?-- 280<0 280>40"},
    {"LVT counters: delivery masks", "340<42 s2 !42 e 340>10042 s2 ?--"},
    {"LVT CMCI", "2f0<43 s6 ?43"},
    {"LVT LINT0: an edge", "350<44 l0+ !44 e ?-- l0- ?-- l0+ !44"},
    {"LVT LINT0: an edge, active low", "l0+ 350<2044 ?-- l0- !44 e l0+ ?--"},
    {"LVT LINT0: a level until EOI",
     "350<8044 l0+ ?44 350>c044 !44 e 350>c044 !44 l0- e 350>8044 ?--"},
    {"LVT LINT0: a level, active low", "l0+ 350<a044 ?-- l0- !44 l0+ e ?--"},
    {"LVT LINT0: a level that waits for its mask", "350<18044 l0+ ?-- 350<8044 ?44"},
    {"LVT LINT0: remote IRR is its own vector's", "350<8044 l0+ !44 L61 !61 e 350>c044 e 350>c044"},
    {"LVT LINT0: NMI", "350<400 l0+ n41 l0- n40 l0+ n41"},
    {"LVT LINT0: SMI", "350<200 l0+ n21"},
    {"LVT LINT0: INIT", "350<500 l0+ n51"},
    {"LVT LINT1: edges only", "360<8045 l1+ !45 e ?-- 360>8045"},
    {"LVT LINT1: NMI whatever the trigger mode", "360<8400 l1+ n41 l1- l1+ n41"},
    {"ExtINT: the 8259's vector, past all priorities", "350<700 x30 80<ff l0+ !30 100>0 110>0"},
    {"ExtINT: vector 0 is one", "350<700 x0 l0+ ?0 !0"},
    {"ExtINT: nothing at the 8259", "350<700 x-- l0+ ?--"},
    {"ExtINT: masked", "350<10700 x30 l0+ ?--"},
    {"ExtINT: before the APIC's own", "350<700 x30 E61 l0+ !30 l0- !61"},
    {"LVT error: each kind once until ESR is written",
     "370<46 300<40005 !46 e 300<40005 ?-- 280<0 300<40005 ?46"},
    {"LVT error: vector 16 is legal, and an edge", "370<10 3c0>0 !10 180>0 e B--"},
    {"LVT error: masked", "370<10046 3c0>0 ?-- 280<0 280>80"},
    /* "Error Handling". */
    {"ESR: shown by a write", "300<40005 280>0 280<0 280>60 280>60 280<0 280>0"},
    {"ESR: send and receive illegal vector", "300<c0005 280<0 280>20 1:280<0 1:280>40"},
    {"ESR: receive illegal vector", "L0 280<0 280>40 ?--"},
    {"ESR: illegal register", "40>0 280<0 280>80 3c0<0 280<0 280>80 3f0<31 280<0 280>80"},
    {"ESR: reading what is written only is no error", "b0>0 20<0 280<0 280>0"},
    /* "Task and Processor Priorities", "Interrupt, Task, and Processor Priority". */
    {"read-only registers stay", "100<ffffffff 180<ffffffff 200<ffffffff 270<ffffffff a0<50 390<55 "
                                 "30<0 100>0 180>0 200>0 270>0 a0>0 390>0 "
                                 "30>1060014 ?--"},
    {"SVR keeps vector, enable and EOI-broadcast suppression", "f0<ffffffff f0>11ff f0<0 f0>0"},
    {"LVT entries keep what they define",
     "320<ffffffff 320>700ff 330<ffffffff 330>107ff 340<ffffffff 340>107ff 360<ffffffff 360>1a7ff "
     "370<ffffffff "
     "370>100ff 2f0<ffffffff 2f0>107ff"},
    {"TPR has 8 bits", "80<fffff145 80>45"},
    {"PPR is TPR", "80<35 a0>35 80<0 a0>0"},
    {"PPR is the class in service", "E61 !61 a0>60 80<50 a0>60 80<70 a0>70 80<0 e a0>0"},
    {"a class must be above PPR's", "80<60 E61 ?-- E6f ?-- E71 ?71"},
    {"TPR holds back and lets go", "80<60 E61 ?-- 80<5f !61"},
    {"higher nests, equal and lower do not", "E51 !51 E5f E41 ?-- E61 !61 e ?-- e !5f e !41"},
    {"two of a vector: one in service, one requested", "E51 !51 E51 E51 e !51 e ?--"},
    {"EOI ends the highest", "E51 !51 E61 !61 130>2 120>20000 e 130>0 120>20000"},
    {"EOI with nothing in service", "e 100>0 B-- E51 ?51"},
    {"a vector that TPR overtook is spurious", "f0<1fa E31 80<30 !fa 80<0 !31 e"},
    {"spurious: no in-service bit", "f0<1f0 !f0 170>0 a0>0"},
    /* "Signaling Interrupt Servicing Completion". */
    {"EOI of a level goes to the I/O APICs", "L31 190>20000 !31 B-- e B31"},
    {"EOI of an edge does not", "E31 190>0 !31 e B--"},
    {"the trigger mode follows the last", "L31 !31 e B31 E31 !31 e B--"},
    {"EOI-broadcast suppression", "f0<11ff L31 !31 e B-- f0<1ff L31 !31 e B31"},
    {"the version offers it", "30>1060014"},
    /* "Determining IPI Destination". */
    {"physical", "310<2000000 300<31 2:?31 1:?-- 3:?-- ?--"},
    {"physical: everybody", "310<ff000000 300<31 ?31 1:?31 2:?31 3:?31"},
    {"physical: nobody there", "310<9000000 300<31 ?-- 1:?-- 2:?-- 3:?--"},
    {"flat: one bit", "1:d0<4000000 2:d0<2000000 310<2000000 300<831 2:?31 1:?-- ?--"},
    {"flat: several bits",
     "1:d0<2000000 2:d0<4000000 3:d0<8000000 310<6000000 300<831 1:?31 2:?31 3:?--"},
    {"flat: no logical ID, no message", "310<1000000 300<831 ?-- 1:?--"},
    {"flat: everybody", "310<ff000000 300<831 ?31 3:?31"},
    {"cluster: one member", "1:e0<0 1:d0<12000000 310<12000000 300<831 1:?31 ?--"},
    {"cluster: another one", "1:e0<0 1:d0<12000000 310<22000000 300<831 1:?--"},
    {"cluster: another member", "1:e0<0 1:d0<12000000 310<11000000 300<831 1:?--"},
    {"cluster: all clusters", "1:e0<0 1:d0<12000000 310<f2000000 300<831 1:?31"},
    {"cluster: broadcast of members",
     "1:e0<0 1:d0<12000000 2:e0<0 2:d0<18000000 310<1f000000 300<831 1:?31 2:?31"},
    {"DFR keeps 28 ones", "e0<0 e0>fffffff e0<ffffffff e0>ffffffff"},
    {"a reserved model takes nothing", "1:e0<50000000 1:d0<2000000 310<2000000 300<831 1:?--"},
    {"LDR has 8 bits", "d0<12345678 d0>12000000"},
    {"x2APIC: the logical ID is made of the ID", "3:m1b<fee00c00 3:m80d>8 3:m80d#8"},
    {"x2APIC: logical", "m1b<fee00d00 3:m1b<fee00c00 m830<800000831 3:?31 ?-- 2:?--"},
    {"x2APIC: logical, another cluster", "m1b<fee00d00 3:m1b<fee00c00 m830<1000800000831 3:?--"},
    {"x2APIC: physical", "m1b<fee00d00 2:m1b<fee00c00 m830<200000031 2:?31 3:?-- m830>200000031"},
    {"x2APIC: 255 is a destination like others",
     "m1b<fee00d00 1:m1b<fee00c00 m830<ff00000031 1:?--"},
    {"x2APIC: everybody",
     "m1b<fee00d00 1:m1b<fee00c00 2:m1b<fee00c00 m830<ffffffff00000031 ?31 1:?31 2:?31"},
    {"lowest priority: the lowest PPR", "d0<1000000 1:d0<2000000 2:d0<4000000 80<20 1:80<10 "
                                        "2:80<30 310<7000000 300<931 1:?31 ?-- 2:?--"},
    {"lowest priority: who is disabled takes none",
     "d0<1000000 1:d0<2000000 80<20 1:f0<ff 310<3000000 300<931 ?31 1:?--"},
    {"lowest priority: physical is the one named", "1:80<f0 310<1000000 300<131 1:80<0 1:?31 ?--"},
    /* "Interrupt Command Register (ICR)": kinds, shorthands, what is not valid. */
    {"to itself", "310<1000000 300<40031 ?31 1:?--"},
    {"to all", "300<80031 ?31 1:?31 2:?31 3:?31"},
    {"to all but itself", "300<c0031 ?-- 1:?31 2:?31 3:?31"},
    {"SMI", "310<1000000 300<200 1:n21 n20"},
    {"NMI", "310<1000000 300<400 1:n41 n40 300<c0400 1:n41 2:n41 3:n41 n40"},
    {"NMI past the software disable", "1:f0<ff 310<1000000 300<400 1:n41 300<31 1:?--"},
    {"INIT", "310<1000000 300<4500 1:n51 300<c500 1:n51 2:n50"},
    {"INIT level de-assert is nothing", "310<1000000 300<8500 1:n50 300<88500 n50 1:n50"},
    {"start-up", "310<1000000 300<4608 1:n61 300<c4608 1:n61 2:n61 n60"},
    {"lowest priority to itself or to all is not valid", "300<40131 ?-- 300<80131 ?-- 1:?--"},
    {"NMI to itself or to all is not valid", "300<40400 300<80400 n40 1:n40"},
    {"SMI, INIT, start-up to itself are not valid", "300<40200 300<44500 300<44608 n20 n50 n60"},
    {"remote read and ExtINT are not sent", "310<1000000 300<331 300<731 1:?-- 1:n30 1:n70"},
    {"an IPI is an edge whatever the trigger mode", "300<4c031 190>0 !31 e B--"},
    {"the delivery status reads 0", "300<41031 300>40031"},
    {"ICR reserved bits read 0", "310<ffffffff 310>ff000000 300<fff3f031 300>c031"},
    {"self IPI", "m1b<fee00d00 m83f<31 ?31 m83f#131 m83f*"},
    {"self IPI: illegal vector", "m1b<fee00d00 m83f<5 m828<0 m828>60 ?--"},
    {"x2APIC: registers have 32 bits",
     "m1b<fee00d00 m838#100000000 m80f#1000001ff m832#100000030 m83e#100000000 m828#100000000"},
    {"x2APIC: ICR reserved bits", "m1b<fee00d00 m830#2031 m830#10031 m830#100031 ?--"},
    {"x2APIC: no such register", "m1b<fee00d00 m80e#0 m831#0 m809* m80c* m80e* m831* m804*"},
    {"x2APIC: read-only and write-only", "m1b<fee00d00 m802#0 m803#0 m80a#0 m839#0 m810#0 m80b*"},
    {"x2APIC: reserved bits of others",
     "m1b<fee00d00 m808#100 m80b#1 m80f#3ff m828#1 m83e#4 m832#100 m808<ff"},
    {"x2APIC: the page is not there", "m1b<fee00d00 m802>0 m803>1060014"},
    {"MSRs only in x2APIC mode", "m808* m808#0 m802*"},
    /* "Local APIC State After It Has Been Software Disabled". */
    {"disabled: entries are masked and stay so",
     "320<30 350<44 f0<ff 320>10030 350>10044 320<30 320>10030 f0<1ff 320<30 320>30"},
    {"disabled: fixed ones are refused", "f0<ff E31 L32 ?-- f0<1ff ?--"},
    {"disabled: what was requested stays", "E31 f0<ff ?31 !31 e"},
    {"disabled: registers work", "f0<ff 80<45 80>45 a0>45 310<1000000 300<31 1:?31"},
    /* "Local APIC Status and Location", "x2APIC State Transitions". */
    {"xAPIC, x2APIC, off, xAPIC", "m1b<fee00d00 m1b<fee00100 m1b<fee00900 m1b>fee00900"},
    {"not from x2APIC to xAPIC", "m1b<fee00d00 m1b#fee00900 m1b>fee00d00"},
    {"not from off to x2APIC", "m1b<fee00100 m1b#fee00d00"},
    {"no mode with EXTD alone", "m1b#fee00500 m1b<fee00100 m1b#fee00500"},
    {"reserved bits", "m1b#fee00901 m1b#fee00b00 m1b#1000000fee00900"},
    {"each has its own place", "1:m1b<d0000800 1:ad0000000 afee00000 m1b<f0000900 af0000000"},
    {"off: nothing comes",
     "1:m1b<fee00000 310<1000000 300<31 300<400 1:n40 1:m1b<fee00800 1:f0<1ff 1:?--"},
    {"off: state is lost", "80<55 E61 d0<1000000 m1b<fee00100 m1b<fee00900 80>0 d0>0 f0>ff 230>0"},
    {"off: the pins are INTR and NMI", "m1b<fee00100 x30 l0+ !30 l1+ n41"},
    {"x2APIC keeps what was there", "80<55 E61 E71 !71 m1b<fee00d00 m808>55 m823>2 m813>20000"},
    /* "Local APIC State After Power-Up or Reset", "… After an INIT Reset". */
    {"INIT: all registers but the mode", "80<55 d0<1000000 e0<0 310<5000000 300<c0005 280<0 320<30 "
                                         "330<31 340<32 350<33 360<34 370<35 2f0<36 "
                                         "380<64 3e0<b L61 !61 L71 rI 80>0 a0>0 d0>0 e0>ffffffff "
                                         "f0>ff 280>0 300>0 310>0 320>10000 330>10000 "
                                         "340>10000 350>10000 360>10000 370>10000 2f0>10000 380>0 "
                                         "390>0 3e0>0 130>0 1b0>0 230>0 ?-- d--"},
    {"INIT: errors are forgotten", "300<40005 rI f0<1ff 280<0 280>0"},
    {"INIT: the inbox is emptied", "E31 L32 rI f0<1ff ?-- 190>0"},
    {"INIT: an ExtINT pin is masked", "350<700 x30 l0+ rI ?--"},
    {"INIT: the mode stays", "m1b<fee00d00 rI m1b>fee00d00 m80f>ff"},
    {"power-up: xAPIC at its place", "m1b<fee00d00 rP m1b>fee00900 f0>ff"},
    /* "APIC Timer". */
    {"one-shot", "3e0<b 320<30 380<64 d64 t63 ?-- 390>1 t64 !30 390>0 e t200 ?-- d--"},
    {"divided by 2", "3e0<0 320<30 380<64 t64 390>32 ?-- tc8 ?30"},
    {"divided by 128", "3e0<a 320<30 380<2 tff ?-- t100 ?30"},
    {"periodic", "3e0<b 320<20030 380<64 t64 !30 e dc8 t96 390>32 tc8 !30"},
    {"an initial count of 0 stops it", "3e0<b 320<20030 380<64 t10 380<0 390>0 t200 ?-- d--"},
    {"masked it counts and tells nobody", "3e0<b 320<10030 380<64 d-- t32 390>32 t64 ?-- 390>0"},
    {"unmasked in time", "3e0<b 320<10030 380<64 t32 320<30 d64 t64 ?30"},
    {"a new count starts afresh", "3e0<b 320<30 380<64 t32 380<64 d96 t64 ?-- t96 ?30"},
    {"from periodic to one-shot: the last time",
     "3e0<b 320<20030 380<64 t10 320<30 t64 !30 e t200 ?-- d--"},
    {"deadline", "320<40030 m6e0<64 d64 m6e0>64 t63 ?-- t64 !30 m6e0>0 e t200 ?--"},
    {"deadline: one that lies behind", "t64 320<40030 m6e0<10 !30 m6e0>0"},
    {"deadline: 0 disarms", "320<40030 m6e0<64 m6e0<0 d-- t64 ?--"},
    {"deadline: masked", "320<50030 m6e0<64 d-- t64 ?-- m6e0>0"},
    {"deadline: the count does nothing", "3e0<b 320<40030 380<64 380>0 390>0 t64 ?--"},
    {"deadline: only in its mode", "320<30 m6e0<64 m6e0>0 d-- t64 ?--"},
    {"from deadline to one-shot disarms", "320<40030 m6e0<64 320<30 320<40030 m6e0>0 d-- t64 ?--"},
    {"from one-shot to deadline disarms", "3e0<b 320<30 380<64 320<40030 d-- 320<30 390>0 t64 ?--"},
    {"divided by 4, 8, 16, 32, 64", "320<30 3e0<1 380<2 t8 !30 e 3e0<2 380<2 t17 ?-- t18 !30 e "
                                    "3e0<3 380<2 t38 !30 e 3e0<8 380<2 t78 !30 e "
                                    "3e0<9 380<2 tf7 ?-- tf8 !30"},
    {"the divisor has bits 0, 1 and 3", "3e0<ffffffff 3e0>b 3e0<4 3e0>0"},
    {"a new divisor while it counts: the count goes on from where it is",
     "3e0<b 320<30 380<64 t32 3e0<0 390>32 d96 t95 ?-- t96 !30"},
    {"a period that has begun anew reads as that", "3e0<b 320<20030 380<64 t64 !30 e t65 390>63"},
    {"a new vector in time", "3e0<b 320<30 380<64 t32 320<31 t64 !31"},
    {"masked when it has come: it is requested already", "3e0<b 320<30 380<64 t64 320<10030 !30"},
    {"illegal vector", "3e0<b 320<f 380<64 t64 ?-- 280<0 280>40"},
    {"in x2APIC mode", "m1b<fee00d00 m83e<b m832<30 m838<64 t32 m839>32 m838>64 t64 !30 m839>0"},
    {"deadline: a later one takes its place", "320<40030 m6e0<64 m6e0<c8 dc8 t64 ?-- tc8 !30"},
    {"deadline: an earlier one takes its place", "320<40030 m6e0<c8 m6e0<64 d64 t64 !30 tc8 ?--"},
    {"deadline: one that was missed while masked is gone",
     "320<50030 m6e0<64 t65 320<40030 ?-- m6e0>0"},
    {"from periodic to deadline disarms", "3e0<b 320<20030 380<64 t10 320<40030 d-- t64 ?--"},
};

enum { CPUS = 4 };

static struct virtx_lapic lapic[CPUS], *table[CPUS];
static struct virtx_apic_bus bus;
static uint32_t (*bus_send)(void *ctx, const struct virtx_apic_message *message);
static int events[CPUS][8], broadcast, extint;
static uint64_t now;

static void changed(void *ctx)
{
    (void)ctx;
}

static void event(void *ctx, enum virtx_apic_delivery kind, uint8_t vector)
{
    if (kind == VIRTX_APIC_SIPI)
        ck_assert_uint_eq(vector, 8);
    events[(struct virtx_lapic *)ctx - lapic][kind]++;
}

static void on_broadcast(void *ctx, uint8_t vector)
{
    ck_assert_ptr_eq(ctx, &bus);
    broadcast = vector;
}

static int extint_vector(void *ctx)
{
    (void)ctx;
    return extint;
}

static const struct virtx_irq_source pic = {.pending = extint_vector, .take = extint_vector};

static void setup(void)
{
    now = 0;
    broadcast = extint = -1;
    virtx_apic_bus_init(&bus, table, CPUS);
    for (unsigned i = 0; i < CPUS; i++) {
        struct virtx_lapic_config config = {
            .size = sizeof(config),
            .id = i,
            .features = VIRTX_LAPIC_X2APIC | VIRTX_LAPIC_TSC_DEADLINE |
                        VIRTX_LAPIC_EOI_SUPPRESSION | VIRTX_LAPIC_CMCI,
            .address_bits = 36,
            .bsp = i == 0,
            .bus_multiply = 1,
            .bus_divide = 1,
            .ctx = &lapic[i],
            .changed = changed,
            .event = event,
            .extint = &pic,
        };

        ck_assert(virtx_lapic_init(&lapic[i], &config));
        ck_assert(virtx_apic_bus_add_lapic(&bus, &lapic[i]));
        bus_send = lapic[i].send;
        virtx_lapic_connect(&lapic[i], bus_send, on_broadcast, &bus);
        virtx_lapic_mmio_write(&lapic[i], 0xf0, 4, 0x1ff, 0);
        for (unsigned kind = 0; kind < 8; kind++)
            events[i][kind] = 0;
    }
}

/* ---- The interpreter ---- */

static const char *at, *begin, *rule;

static uint64_t number(void)
{
    char *end;
    uint64_t value = strtoull(at, &end, 16);

    ck_assert_msg(end != at, "%s: no number at \"%s\"", rule, at);
    at = end;
    return value;
}

static uint64_t number_or_none(void)
{
    if (*at != '-')
        return number();
    at += 2;
    return UINT64_MAX;
}

static void expect(uint64_t got, uint64_t wanted)
{
    ck_assert_msg(got == wanted, "%s: at \"%s\": 0x%llx", rule, begin, (unsigned long long)got);
}

static void msr_step(struct virtx_lapic *l)
{
    uint32_t msr = (uint32_t)number();
    char kind = *at++;
    uint64_t value = 0, wanted;

    switch (kind) {
    case '<':
        expect(virtx_lapic_msr_write(l, msr, now, number()), 1);
        break;
    case '#':
        expect(virtx_lapic_msr_write(l, msr, now, number()), 0);
        break;
    case '*':
        expect(virtx_lapic_msr_read(l, msr, now, &value), 0);
        break;
    default:
        wanted = number();
        expect(virtx_lapic_msr_read(l, msr, now, &value), 1);
        expect(value, wanted);
    }
}

static void register_step(struct virtx_lapic *l)
{
    uint32_t offset = (uint32_t)number();
    bool write = *at++ == '<';
    uint64_t value = number();

    if (write)
        virtx_lapic_mmio_write(l, offset, 4, value, now);
    else
        expect(virtx_lapic_mmio_read(l, offset, 4, now), value);
}

static void pin_step(struct virtx_lapic *l)
{
    unsigned pin = (unsigned)(*at++ - '0');

    virtx_lapic_set_lint(l, pin, *at++ == '+');
}

static void events_step(unsigned cpu)
{
    unsigned kind = (unsigned)(*at++ - '0');

    expect((uint64_t)events[cpu][kind], number());
    events[cpu][kind] = 0;
}

static void other_step(struct virtx_lapic *l, char kind)
{
    switch (kind) {
    case 'B':
        expect((uint64_t)(int64_t)broadcast, number_or_none());
        broadcast = -1;
        break;
    case 's':
        virtx_lapic_local_interrupt(l, (enum virtx_lapic_lvt)number());
        break;
    case 'x':
        extint = (int)number_or_none();
        break;
    case 't':
        now = number();
        virtx_lapic_advance(l, now);
        break;
    case 'd':
        expect(virtx_lapic_deadline(l), number_or_none());
        break;
    case 'a':
        expect(virtx_lapic_mmio_base(l), number());
        break;
    default:
        virtx_lapic_reset(l, *at++ == 'I');
    }
}

/* Letters that are hexadecimal digits too begin a register if a '<' or '>' follows the number. */
static bool names_register(void)
{
    const char *c = at;

    while ((*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'f'))
        c++;
    return c > at && (*c == '<' || *c == '>');
}

static void step(void)
{
    unsigned cpu = 0;
    struct virtx_lapic *l;
    char kind;

    begin = at;
    if (at[1] == ':') {
        cpu = (unsigned)(*at - '0');
        at += 2;
    }
    l = &lapic[cpu];
    if (names_register()) {
        register_step(l);
        return;
    }
    kind = *at++;
    switch (kind) {
    case 'm':
        msr_step(l);
        break;
    case '?':
        expect((uint64_t)(int64_t)virtx_lapic_pending(l), number_or_none());
        break;
    case '!':
        expect((uint64_t)(int64_t)virtx_lapic_take(l), number_or_none());
        break;
    case 'E':
    case 'L':
        (void)virtx_lapic_accept(l, VIRTX_APIC_FIXED, (uint8_t)number(), kind == 'L');
        break;
    case 'e':
        virtx_lapic_mmio_write(l, 0xb0, 4, 0, now);
        break;
    case 'n':
        events_step(cpu);
        break;
    case 'l':
        pin_step(l);
        break;
    default:
        other_step(l, kind);
    }
}

START_TEST(rules_of_the_manual)
{
    rule = rules[_i].rule;
    at = rules[_i].steps;
    while (*at != '\0') {
        step();
        while (*at == ' ')
            at++;
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lapic_rules");
    TCase *tc = tcase_create("lapic_rules");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_loop_test(tc, rules_of_the_manual, 0, (int)(sizeof(rules) / sizeof(rules[0])));
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
