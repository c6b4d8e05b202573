/**
 * Reads and writes durations and times for people: `90d`, `45s`, `1h30m`, and RFC 3339.
 *
 * - A text is read exactly or not at all.
 */

const UNITS = { d: 86_400, h: 3600, m: 60, s: 1 } as const;

/** Returns the seconds of `90d`, or of `1h30m`; undefined for anything else. */
export function readDuration(text: string): number | undefined {
  if (!/^(?=\d)(\d{1,9}d)?(\d{1,9}h)?(\d{1,9}m)?(\d{1,9}s)?$/.test(text)) return undefined;
  const parts = text.matchAll(/(\d+)([dhms])/g);
  return [...parts].reduce(
    (sum, [, count, unit]) => sum + Number(count) * UNITS[unit as keyof typeof UNITS],
    0,
  );
}

/** Writes seconds as `90d`, in the largest unit that leaves no remainder. */
export function writeDuration(seconds: number): string {
  const [unit, length] = Object.entries(UNITS).find(([, each]) => seconds % each === 0) ?? ['s', 1];
  return seconds === 0 ? '0s' : `${seconds / length}${unit}`;
}

/** Writes seconds as `2h 05m`, as precisely as people need. */
export function writeRoughly(seconds: number): string {
  const whole = Math.ceil(seconds);
  for (const [unit, next] of [
    ['d', 'h'],
    ['h', 'm'],
    ['m', 's'],
  ] as const) {
    const rest = Math.floor((whole % UNITS[unit]) / UNITS[next]);
    if (whole >= UNITS[unit]) {
      return `${Math.floor(whole / UNITS[unit])}${unit} ${String(rest).padStart(2, '0')}${next}`;
    }
  }
  return `${whole}s`;
}

/**
 * Returns the time of `2027-01-31T12:00:00Z` (RFC 3339), to the millisecond; undefined for anything
 * else.
 */
export function readTime(text: string): Date | undefined {
  const form =
    /^(\d{4})-(\d\d)-(\d\d)T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$/i;
  const [, year, month, day] = (form.exec(text) ?? []).map(Number);
  if (year === undefined || month === undefined || day === undefined) return undefined;
  // Date takes the 30th of February for the 2nd of March.
  const there = new Date(Date.UTC(year, month - 1, day));
  if (there.getUTCMonth() !== month - 1 || there.getUTCDate() !== day) return undefined;
  return new Date(text.toUpperCase());
}
