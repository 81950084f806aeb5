#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Break the shadow engine on purpose, one rule at a time: the audit must fail for each.

    tests/unit/shadow_mutants.py SOURCE_ROOT [WORD]

With WORD only those whose name has it.

A mutant is a text of a file of src/paging and what stands there instead. One whose text is not
found any more is an error too: mend this list along with the engine.
"""

import glob
import os
import shutil
import subprocess
import sys
import tempfile

OPERATIONS = "2000000"

MUTANTS = [
    ('a write across entries compared in the first', 'shadow_sync.c',
     'i <= (first + (unsigned)bytes - 1) / 8;', 'i <= first / 8;'),
    ('SMAP forgotten, quick way', 'shadow_quick.c',
     '    return (error & PF_USER) || !(cr4 & CR4_SMAP);', '    return true;'),
    ('keys forgotten, quick way', 'shadow_quick.c',
     '    if (cr4 & CR4_PKE)\n        return false;\n', ''),
    ('dirty flag ignored', 'shadow_leaf.c',
     '    if (!(leaf & GPTE_D))\n        b->rights &= ~(uint32_t)ROLE_W;\n    return true;',
     '    return true;'),
    ('dirty flag ignored, quick way', 'shadow_quick.c',
     '    if (!(wanted & GPTE_D))\n        q->rights &= ~(uint32_t)ROLE_W;\n',
     ''),
    ('tables not write-protected when made', 'shadow_page.c',
     'shadow_protect(sv, page->gfn) && !shadow_alone(sv)',
     '!shadow_alone(sv)'),
    ('tables not protected again at a flush', 'shadow_sync.c',
     '        shadow_protect(sv, page->gfn);\n        shadow_forget',
     '        shadow_forget'),
    ('no comparison at a flush', 'shadow_sync.c',
     '        page->hot--;\n    compare_and_judge(sv, page);\n}',
     '        page->hot--;\n}'),
    ('comparison misses cleared accessed flags', 'shadow_sync.c',
     '    if ((change & ~flags) || (change & page->copy[index]))',
     '    if (change & ~flags)'),
    ('INVLPG leaves tables above alone', 'shadow.c',
     '        shadow_sync_tables(sv);\n    if (sv->unsync[SHADOW_LEAVES])\n        compare_address',
     '        (void)0;\n    if (sv->unsync[SHADOW_LEAVES])\n        compare_address'),
    ('INVLPG leaves the entry', 'shadow.c',
     '    if (page->unsync)\n        shadow_compare_entry(sv, page, index);\n',
     ''),
    ('INVLPG before any root leads there forgotten', 'shadow.c',
     '    if (shadow_level(page) > 1 && !shadow_maps(page->entry[index]))\n        sv->put_off = true;\n',
     ''),
    ('rights of the tables above not in the role', 'shadow_fault.c',
     '    if (!(entry & GPTE_W))\n        access &= ~(uint32_t)ROLE_W;\n    if (!(entry & GPTE_U))\n        access &= ~(uint32_t)ROLE_U;\n    if (b->path.width',
     '    if (b->path.width'),
    ('CR0.WP not in the role', 'shadow.h',
     '        return role | ROLE_WP;',
     '        return role;'),
    ('no flush owed when an entry loses rights', 'shadow_entry.c',
     '    sv->narrowed++;\n    list_remove',
     '    list_remove'),
    ('what another vcpu has taken away is not flushed', 'shadow.c',
     '    if (sv->narrowed != v->narrowed) {\n        v->narrowed = sv->narrowed;\n',
     '    if (sv->narrowed != v->narrowed) {\n        for (struct virtx_vcpu *o = vcpu->vm->vcpus; o; o = o->next)\n'
     '            shadow_vcpu_of(o)->narrowed = sv->narrowed;\n'),
    ('kernel write under WP=0 leaves the page to users', 'shadow_leaf.c',
     '            b->rights = (b->rights & ~(uint32_t)ROLE_U) | ROLE_W;',
     '            b->rights |= ROLE_W;'),
    ('SMEP forgotten under WP=0', 'shadow_leaf.c',
     '            if (b->v->role & ROLE_SMEP)\n                b->rights &= ~(uint32_t)ROLE_X;\n',
     ''),
    ('large leaf over a table', 'shadow_leaf.c',
     ' ||\n        b->sv->region[gpa >> 21 & (SHADOW_REGIONS - 1)]',
     ''),
    ('slot rights ignored', 'shadow_build.h',
     'if ((rights & ROLE_W) && (slot->rights & VIRTX_WRITE))',
     'if (rights & ROLE_W)'),
    ('markers stay when memory comes', 'shadow_slots.c',
     '    case VIRTX_MEMORY_ADDED:\n        drop_markers(sv, gfn, count);\n',
     '    case VIRTX_MEMORY_ADDED:\n'),
    ('write to a logged page not marked', 'shadow_leaf.c',
     '                virtx_slot_mark(b->slot, gfn << 12, VIRTX_PAGE_SIZE);',
     '                (void)0;'),
    ('tables stay when their memory goes', 'shadow_slots.c',
     '        drop_tables(sv, gfn, count);\n        shadow_for',
     '        shadow_for'),
    ('eviction forgets parents', 'shadow_page.c',
     '        shadow_entry_clear(sv, parent, page->parents % SHADOW_ENTRIES);',
     '        page->parents = parent->link[page->parents % SHADOW_ENTRIES].next;'),
    ('reserved bits overlooked, quick way', 'shadow_quick.c',
     '    if (entry & q->v->reserved)\n        return false;\n',
     ''),
    ('way believed though an upper entry has changed', 'shadow_quick.c',
     ' == way->entry[1]',
     ' != 0'),
    ('way believed though our tables have changed', 'shadow_quick.c',
     'way->links == q->sv->links && ',
     ''),
    ('write to a table not noticed, quick way', 'shadow_quick.c',
     '            shadow_table_written(sv, gfn);\n',
     ''),
    ('CR3 is no flush, quick way', 'shadow.c',
     '        shadow_sync_leaves(sv, root);\n        shadow_sync_rounds',
     '        shadow_sync_rounds'),
    ('table put off and linked', 'shadow_fault.c',
     '        shadow_sync_leaves(b->sv, NULL);',
     '        (void)0;'),
    ('table put off and met by another root', 'shadow_sync.c',
     '{page->parents};',
     '{root ? 0 : page->parents};'),
    ('round over before others have flushed', 'shadow_sync.c',
     '    over = virtx_is_settled(sv->vm, sv->round);',
     '    over = true;'),
    ('written while it closes', 'shadow_sync.c',
     '        if (page->unsync && !page->closing)\n            continue;',
     '        if (page->unsync)\n            continue;'),
    ('right to write given while a table closes', 'shadow_build.h',
     'page->unsync && !page->closing',
     'page->unsync'),
    ('another root without a flush', 'shadow.c',
     '    if (sv->narrowed != v->narrowed || hpa != v->root_hpa) {',
     '    if (sv->narrowed != v->narrowed) {'),
    ('quadrant of a 32-bit directory wrong', 'shadow_fault.c',
     '(uint32_t)(b->gva >> 30 & 3) << ROLE_QUADRANT : 0;\n        return',
     '0u : 0;\n        return'),
    ('a table is written, and what was absent stays absent', 'shadow_sync.c',
     '    else if (page->absent)\n        shadow_forget_absent(sv, page);\n',
     ''),
    ('a table above is written, and what was absent below stays absent', 'shadow_sync.c',
     '        shadow_forget_all_absent(sv);\n',
     '        shadow_forget_absent(sv, page);\n'),
    ('absent entries learnt from a table out of sync', 'shadow_entry.c',
     'page->unsync || !page->guest',
     '!page->guest'),
    ('absent entries learnt below a table out of sync', 'shadow_entry.c',
     ' ||\n        sv->unsync[SHADOW_TABLES])',
     ')'),
    ('absent fetches delivered where the guest has no bit for them', 'shadow_root.c',
     ': PF_PRESENT | PF_FETCH',
     ': PF_PRESENT'),
    ('absent entries delivered in PAE format', 'shadow_root.c',
     ' || !(v->mode.efer & EFER_LMA))\n        return 0;',
     ')\n        return 0;'),
    ('absent and unknown the same', 'shadow_page.c',
     '        shadow_entries_begin(sv, page->entry);\n',
     ''),
    ('executed write not compared', 'shadow_sync.c',
     '        else\n            compare_part(sv, page, gpa, bytes);\n    }',
     '    }'),
    ('writes executed where the library cannot', 'shadow_build.h',
     ' && hw_can_execute_write(hw_of(vcpu))',
     ''),
    ('a table dropped while it is being written', 'shadow_sync.c',
     '\n        page->stamp == sv->stamp || (sv->dropped & bit))',
     '\n        (sv->dropped & bit))'),
    ('a table dropped whenever it is written', 'shadow_sync.c',
     '    sv->dropped |= bit;\n',
     ''),
    ('CR4.PGE is no flush, quick way', 'shadow.c',
     '            v->mode.cr4 = value;\n        hpa = enter_root(vcpu, sv, v, root);',
     '            v->mode.cr4 = value;\n        hpa = root->hpa;\n        if (reg == 0)\n            hpa = enter_root(vcpu, sv, v, root);'),
    ('CR0.WP not in the role, quick way', 'shadow.c',
     'root->role ^ v->role ^ shadow_role_wp(v->role, value, v->mode.cr4)',
     'root->role'),
    ('no flush owed for what users gain', 'shadow_entry.c',
     '(SPTE_U | SPTE_NX | SPTE_KEY)))',
     '(SPTE_NX | SPTE_KEY)))'),
    ('marker tells no rights', 'shadow_fault.c',
     '    if (rights & ROLE_U ? (v->mode.cr4 & (CR4_SMAP | CR4_PKE)) : fault->error & PF_USER)\n        return false;\n',
     ''),
]


def audit(root, folder, mutant):
    """None: it could not be made; else whether the audit passed."""
    shutil.rmtree(folder + "/src", ignore_errors=True)
    shutil.copytree(root + "/src", folder + "/src")
    if mutant:
        _, name, old, new = mutant
        path = folder + "/src/paging/" + name
        with open(path) as file:
            text = file.read()
        if old not in text:
            return None
        with open(path, "w") as file:
            file.write(text.replace(old, new, 1))
    sources = glob.glob(folder + "/src/paging/shadow*.c")
    sources += [folder + "/src/paging/walk.c", folder + "/src/core/error.c"]
    sources += [root + "/tests/unit/" + name
                for name in ("test_shadow.c", "shadow_world.c", "ref_walk.c")]
    done = subprocess.run(
        ["cc", "-O1", "-w", "-std=gnu11", "-DVIRTX_UNIT", "-I" + root + "/include",
         "-I" + folder + "/src", "-I" + root + "/tests/unit"] + sources +
        ["-o", folder + "/test", "-lcheck", "-lsubunit", "-lrt", "-lm", "-lpthread"])
    if done.returncode:
        return None
    done = subprocess.run([folder + "/test", OPERATIONS], stdout=subprocess.DEVNULL, timeout=600)
    return done.returncode == 0


def main():
    root = os.path.abspath(sys.argv[1])
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        if not audit(root, folder, None):
            sys.exit("the audit fails without a mutant")
        word = sys.argv[2] if len(sys.argv) > 2 else ""
        for mutant in MUTANTS:
            if word not in mutant[0]:
                continue
            passed = audit(root, folder, mutant)
            verdict = "killed" if passed is False else "NOT MADE" if passed is None else "SURVIVED"
            print("%s: %s" % (mutant[0], verdict), flush=True)
            bad += passed is not False
    sys.exit("%d of %d" % (bad, len(MUTANTS)) if bad else 0)


if __name__ == "__main__":
    main()
