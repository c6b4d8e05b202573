/**
 * What is usual for a caller, and how an hour of theirs differs from it.
 *
 * - What is usual are the extremes of the hours before: simple enough to be told in one sentence,
 *   with the two numbers that were compared.
 * - A caller who is not known for {@link LEARNING_DAYS} days yet is not judged.
 *
 * Knows hours as numbers: not where they come from, nor what becomes of a finding.
 */

/** What one caller did in one hour. */
export interface CallerHour {
  /** When the hour began, in milliseconds since 1970. */
  readonly hour: number;
  /** Each item of a batch counts, as it does for quotas. */
  readonly encrypts: number;
  readonly decrypts: number;
  /** Of other operations. */
  readonly others: number;
  /** Calls that failed for something about the caller or the request. */
  readonly failures: number;
  /** Keys that the caller had not used before. */
  readonly newKeys: number;
}

/** In what an hour can be unusual. */
export type Feature = 'hour' | 'ratio' | 'keys' | 'failures';

/** What is unusual, against what. */
export interface Finding {
  readonly feature: Feature;
  readonly observed: number;
  readonly usual: number;
  /** For people, one sentence. */
  readonly explanation: string;
}

/** So long a caller is watched before anything that they do is unusual. */
export const LEARNING_DAYS = 14;
/** Hours that are older say nothing of what is usual. */
export const REMEMBERED_DAYS = 28;

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const HOURS = 24;
/** So many times the most of all hours before is unusual. */
const TIMES = 3;
/** Fewer than these are nothing that a person should look at. */
const FEWEST = { decrypts: 100, failures: 20, newKeys: 5, calls: 5 } as const;
/** For so long from a caller's first hour on, every key is new: they say nothing. */
const FIRST_KEYS_DAYS = 7;

/** What is usual for one caller. */
export class Baseline {
  readonly #days: number;
  /** Of each hour of the day, by UTC, whether the caller was ever active in it. */
  readonly #active: readonly boolean[];
  readonly #most: Readonly<Record<'ratio' | 'newKeys' | 'failures', number>>;

  /** `hours` are those before the one that is to be judged, in any order. */
  constructor(hours: readonly CallerHour[]) {
    const first = hours.reduce((least, { hour }) => Math.min(least, hour), Infinity);
    const active = Array.from({ length: HOURS }, () => false);
    const most = { ratio: 0, newKeys: 0, failures: 0 };
    for (const each of hours) {
      active[hourOfDay(each)] = true;
      most.ratio = Math.max(most.ratio, ratioOf(each));
      most.failures = Math.max(most.failures, each.failures);
      if (each.hour - first >= FIRST_KEYS_DAYS * DAY_MS)
        most.newKeys = Math.max(most.newKeys, each.newKeys);
    }
    const last = hours.reduce((latest, { hour }) => Math.max(latest, hour), -Infinity);
    this.#days = hours.length === 0 ? 0 : (last - first) / DAY_MS;
    this.#active = active;
    this.#most = most;
  }

  /** Returns what is unusual in an hour; nothing while too little is known of the caller. */
  judge(hour: CallerHour): readonly Finding[] {
    if (this.#days < LEARNING_DAYS) return [];
    return [
      this.#judgeTime(hour),
      this.#judgeRatio(hour),
      this.#judgeKeys(hour),
      this.#judgeFailures(hour),
    ].filter((finding) => finding !== undefined);
  }

  /** An hour next to one in which the caller was active is none of its own. */
  #judgeTime(hour: CallerHour): Finding | undefined {
    const at = hourOfDay(hour);
    const isNear = [HOURS - 1, 0, 1].some((off) => this.#active[(at + off) % HOURS]);
    const observed = callsIn(hour);
    if (isNear || observed < FEWEST.calls) return undefined;
    const explanation = `${observed} calls at ${at}:00 UTC, when the caller was never active before`;
    return { feature: 'hour', observed, usual: 0, explanation };
  }

  #judgeRatio(hour: CallerHour): Finding | undefined {
    if (hour.decrypts < FEWEST.decrypts) return undefined;
    return this.#judgeMost('ratio', ratioOf(hour), this.#most.ratio, 'decryptions per encryption');
  }

  #judgeKeys({ newKeys }: CallerHour): Finding | undefined {
    if (newKeys < FEWEST.newKeys) return undefined;
    return this.#judgeMost('keys', newKeys, this.#most.newKeys, 'keys never used before');
  }

  #judgeFailures({ failures }: CallerHour): Finding | undefined {
    if (failures < FEWEST.failures) return undefined;
    return this.#judgeMost('failures', failures, this.#most.failures, 'calls that failed');
  }

  #judgeMost(feature: Feature, observed: number, usual: number, of: string): Finding | undefined {
    if (observed <= TIMES * usual) return undefined;
    const explanation =
      `${rounded(observed)} ${of} in an hour, of which there were at most ` +
      `${rounded(usual)} in any hour of the ${Math.floor(this.#days)} days before`;
    return { feature, observed: rounded(observed), usual: rounded(usual), explanation };
  }
}

/** Returns how often the caller called. */
export function callsIn({ encrypts, decrypts, others }: CallerHour): number {
  return encrypts + decrypts + others;
}

/** One is added to both, so that a caller who only decrypts has a ratio as well. */
function ratioOf({ encrypts, decrypts }: CallerHour): number {
  return decrypts === 0 ? 0 : (decrypts + 1) / (encrypts + 1);
}

const hourOfDay = ({ hour }: CallerHour) => Math.floor(hour / HOUR_MS) % HOURS;
const rounded = (value: number) => Math.round(value * 10) / 10;
