/**
 * Collects what checks find, in their order.
 *
 * - A check passes with what it found, fails with that and what to do, or is left out with the
 *   reason.
 * - A check that throws anything but a {@link Trouble} is a fault of ours.
 */

/** What a check found. */
export interface Finding {
  readonly check: string;
  readonly outcome: 'PASSED' | 'FAILED' | 'SKIPPED';
  readonly found: string;
  /** What to do where it failed. */
  readonly remedy?: string;
}

/** What a check that passed found: in words, and for the checks after it. */
export interface Found<Value> {
  readonly found: string;
  readonly value: Value;
}

/** Reports that something is wrong: what, and what to do. */
export class Trouble extends Error {
  override readonly name = 'Trouble';
  readonly remedy: string;

  constructor(found: string, remedy: string, cause?: unknown) {
    super(found, { cause });
    this.remedy = remedy;
  }
}

/** The checks of one service by one caller. */
export class Examination {
  readonly findings: Finding[] = [];

  /** Whether nothing that was looked at is wrong. */
  get passes(): boolean {
    return this.findings.every(({ outcome }) => outcome !== 'FAILED');
  }

  /** Whether that check was made and failed. */
  failed(check: string): boolean {
    return this.findings.some((each) => each.check === check && each.outcome === 'FAILED');
  }

  /** Makes a check. Returns what it found for those after it; undefined where it failed. */
  async check<Value>(
    check: string,
    look: () => Found<Value> | Promise<Found<Value>>,
  ): Promise<Value | undefined> {
    try {
      const { found, value } = await look();
      this.findings.push({ check, outcome: 'PASSED', found });
      return value;
    } catch (error) {
      if (!(error instanceof Trouble)) throw error;
      const { message: found, remedy } = error;
      this.findings.push({ check, outcome: 'FAILED', found, remedy });
      return undefined;
    }
  }

  /** Leaves checks out. */
  skip(checks: readonly string[], why: string): void {
    for (const check of checks) this.findings.push({ check, outcome: 'SKIPPED', found: why });
  }
}
