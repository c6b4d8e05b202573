/**
 * Times and durations as the contract's messages have them. Knows no message.
 */

export function optionalTime(date: Date | null) {
  return date && timestamp(date);
}

export function duration(milliseconds: number): {
  readonly seconds: number;
  readonly nanos: number;
} {
  const seconds = Math.floor(milliseconds / 1000);
  return {
    seconds,
    nanos: Math.min(999_999_999, Math.round((milliseconds - seconds * 1000) * 1e6)),
  };
}

export function timestamp(date: Date): { readonly seconds: number; readonly nanos: number } {
  const milliseconds = date.getTime();
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds, nanos: (milliseconds - seconds * 1000) * 1e6 };
}
