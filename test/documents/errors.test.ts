import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { it } from 'node:test';
import { REASONS } from '../../src/errors.ts';

it('docs/errors.md lists every reason with its status and retry, and no other', () => {
  const page = readFileSync(new URL('../../docs/errors.md', import.meta.url), 'utf8');
  const rows = page.matchAll(
    /^- `([A-Z_]+)` \(`([A-Z_]+)`, (no retry|retry varies|retry after [\d,]+ ms)\): \S/gm,
  );
  const documented = Array.from(rows, ([, reason, status, retry]) => ({ reason, status, retry }));
  const table: [string, { status: string; retryAfterMs?: number; retryVaries?: true }][] =
    Object.entries(REASONS);
  const actual = table.map(([reason, { status, retryAfterMs, retryVaries = false }]) => ({
    reason,
    status,
    retry:
      retryAfterMs === undefined
        ? retryVaries
          ? 'retry varies'
          : 'no retry'
        : `retry after ${retryAfterMs.toLocaleString('en')} ms`,
  }));
  assert.deepEqual(documented, actual);
});
