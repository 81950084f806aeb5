/* SPDX-License-Identifier: BSD-2-Clause */
/* The cases of the storm's image that are in files of their own. */
#ifndef TESTS_GUEST_STORM_H
#define TESTS_GUEST_STORM_H

void storm_starts(void);
void storm_starts_in_turns(void);

#endif
