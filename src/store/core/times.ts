/**
 * Times as seals are computed over them: whole microseconds since 1970, as Postgres has them.
 *
 * A time that is no such number becomes one that nothing can be sealed over.
 */

/** More than 64 bits: nothing that can be under a seal. */
const NO_TIME = 1n << 64n;

/** The SQL of a time's microseconds, as text; null where there is none. */
export const microseconds = (time: string) =>
  `CASE WHEN isfinite(${time}) THEN trunc(extract(epoch FROM ${time}) * 1000000)::text
    WHEN ${time} IS NOT NULL THEN 'infinite' END`;

/** Returns what {@link microseconds} has read. */
export function timeOf(text: string): bigint;
export function timeOf(text: string | null): bigint | null;
export function timeOf(text: string | null): bigint | null {
  if (text === null) return null;
  return text === 'infinite' ? NO_TIME : BigInt(text);
}
