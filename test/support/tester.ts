/** Who tests are, by itself: what gives rights (`grants.ts`) loads half of the service. */

/** The caller that tests are unless they say otherwise. */
export const TESTER = 'spiffe://keyward.test/tester';
