/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The VMX instructions, with what they report.
 *
 * All but VMREAD and VMWRITE answer with an enum vmx_fail (Intel SDM "Conventions" of the chapter
 * "VMX Instruction Reference"): VMfailInvalid sets CF, VMfailValid sets ZF and leaves a number in
 * the current VMCS. VMREAD of a field that the processor does not have answers nonsense, VMWRITE to
 * one does nothing; the callers ask only for fields that the capability MSRs promise. In the unit
 * tests (VIRTX_UNIT) mocks take the place of all.
 */
#ifndef VIRTX_VMX_INSTR_H
#define VIRTX_VMX_INSTR_H

#include <stdint.h>

enum vmx_fail {
    VMX_SUCCEED,
    VMX_FAIL_INVALID, /* no current VMCS, or the pointer is not one */
    VMX_FAIL_VALID,   /* the VM-instruction error field of the current VMCS says why */
};

struct vmx_ept_operand {
    uint64_t eptp, reserved;
};

struct vmx_vpid_operand {
    uint64_t vpid, linear; /* bits 63:16 of vpid are zero */
};

enum vmx_invalidate {
    VMX_INVALIDATE_ADDRESS = 0, /* INVVPID only */
    VMX_INVALIDATE_SINGLE = 1,
    VMX_INVALIDATE_ALL = 2,
};

#ifdef VIRTX_UNIT

enum vmx_fail mock_vmxon(uint64_t hpa);
enum vmx_fail mock_vmxoff(void);
enum vmx_fail mock_vmptrld(uint64_t hpa);
enum vmx_fail mock_vmclear(uint64_t hpa);
enum vmx_fail mock_invept(uint64_t type, const struct vmx_ept_operand *what);
enum vmx_fail mock_invvpid(uint64_t type, const struct vmx_vpid_operand *what);
uint64_t mock_vmread(uint64_t field);
void mock_vmwrite(uint64_t field, uint64_t value);
#define vmx_vmxon   mock_vmxon
#define vmx_vmxoff  mock_vmxoff
#define vmx_vmptrld mock_vmptrld
#define vmx_vmclear mock_vmclear
#define vmx_invept  mock_invept
#define vmx_invvpid mock_invvpid
#define vmx_vmread  mock_vmread
#define vmx_vmwrite mock_vmwrite

static inline void vmx_vmread_to(uint64_t field, uint64_t *value)
{
    *value = mock_vmread(field);
}

static inline void vmx_vmwrite_from(uint64_t field, const uint64_t *value)
{
    mock_vmwrite(field, *value);
}

#else

/* ZF is tested first: after VMfailInvalid it is clear. */
#define VMX_DECODE(fail)                                                                           \
    ((fail##_zf) ? VMX_FAIL_VALID : (fail##_cf) ? VMX_FAIL_INVALID : VMX_SUCCEED)

#define VMX_POINTER_INSTRUCTION(name)                                                              \
    static inline enum vmx_fail vmx_##name(uint64_t hpa)                                           \
    {                                                                                              \
        unsigned char fail_zf, fail_cf;                                                            \
        __asm__ volatile(#name " %2" : "=@ccz"(fail_zf), "=@ccc"(fail_cf) : "m"(hpa) : "memory");  \
        return VMX_DECODE(fail);                                                                   \
    }
VMX_POINTER_INSTRUCTION(vmxon)
VMX_POINTER_INSTRUCTION(vmptrld)
VMX_POINTER_INSTRUCTION(vmclear)
#undef VMX_POINTER_INSTRUCTION

static inline enum vmx_fail vmx_vmxoff(void)
{
    unsigned char fail_zf, fail_cf;
    __asm__ volatile("vmxoff" : "=@ccz"(fail_zf), "=@ccc"(fail_cf) : : "memory");
    return VMX_DECODE(fail);
}

static inline enum vmx_fail vmx_invept(uint64_t type, const struct vmx_ept_operand *what)
{
    unsigned char fail_zf, fail_cf;
    __asm__ volatile("invept %2, %3"
                     : "=@ccz"(fail_zf), "=@ccc"(fail_cf)
                     : "m"(*what), "r"(type)
                     : "memory");
    return VMX_DECODE(fail);
}

static inline enum vmx_fail vmx_invvpid(uint64_t type, const struct vmx_vpid_operand *what)
{
    unsigned char fail_zf, fail_cf;
    __asm__ volatile("invvpid %2, %3"
                     : "=@ccz"(fail_zf), "=@ccc"(fail_cf)
                     : "m"(*what), "r"(type)
                     : "memory");
    return VMX_DECODE(fail);
}

/* No "memory": a VMCS is changed only by VMWRITE and by entries, all of which are volatile too. */
static inline uint64_t vmx_vmread(uint64_t field)
{
    uint64_t value;
    __asm__ volatile("vmread %1, %0" : "=r"(value) : "r"(field) : "cc");
    return value;
}

/* From and to memory, one instruction less. */
static inline void vmx_vmread_to(uint64_t field, uint64_t *value)
{
    __asm__ volatile("vmread %1, %0" : "=m"(*value) : "r"(field) : "cc");
}

static inline void vmx_vmwrite_from(uint64_t field, const uint64_t *value)
{
    __asm__ volatile("vmwrite %1, %0" : : "r"(field), "m"(*value) : "cc");
}

static inline void vmx_vmwrite(uint64_t field, uint64_t value)
{
    __asm__ volatile("vmwrite %1, %0" : : "r"(field), "r"(value) : "cc");
}

#endif

#endif
