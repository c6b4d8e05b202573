/**
 * The tests of floods by callers of every kind: those with a certificate, those with none where
 * tokens may take its place, those whose certificate is of another CA. None ends, blocks or fills
 * the server. What they do is `floods.ts`; by which callers each, the tests are given.
 */
import { after, before, describe, test } from 'node:test';
import { CONNECTION_FLOODS, FLOODS, HEALTH_FLOODS } from './floods.ts';
import {
  CREDENTIALS,
  type CredentialKind,
  type Flood,
  type FloodedService,
  startFlooded,
} from './rig.ts';

/** Longer than any wait of the rig, which says what it waited for. */
const TIMEOUT_MS = 400_000;

/** The name of each test with its flood and the callers of it. */
type Rows = readonly (readonly [string, Flood, CredentialKind])[];

function rows(floods: readonly Flood[], kinds: readonly CredentialKind[]): Rows {
  return floods.flatMap((flood) =>
    kinds.map((kind) => [`${flood.name}, with ${kind}`, flood, kind] as const),
  );
}

/** The tests of these rows, all on one service. */
function outlives(all: Rows, options: Parameters<typeof startFlooded>[0]): void {
  let flooded: FloodedService;
  before(async () => {
    flooded = await startFlooded(options);
  });
  after(async () => {
    await flooded?.[Symbol.asyncDispose]();
  });
  for (const [name, flood, kind] of all)
    test(name, { timeout: TIMEOUT_MS }, () => flooded.survives(flood, kind));
}

/** Returns those of the floods that are tested, and of the callers that each is tested with. */
export interface Chosen {
  floods(all: readonly Flood[]): readonly Flood[];
  callers(kinds: readonly CredentialKind[]): readonly CredentialKind[];
}

/** Declares the tests, of what is chosen. */
export function testFloods(chosen: Chosen): void {
  const rowsOf = (floods: readonly Flood[], kinds: readonly CredentialKind[]) =>
    chosen.floods(floods).flatMap((flood) => rows([flood], chosen.callers(kinds)));

  describe('the server outlives', () => {
    const health = HEALTH_FLOODS.map((flood) => [flood.name, flood, 'no certificate'] as const);
    outlives([...rowsOf(FLOODS, CREDENTIALS), ...health], { acceptsTokens: true });
  });

  describe('the server, where certificates are required, outlives', () => {
    outlives(rowsOf(CONNECTION_FLOODS, ['no certificate', 'a certificate of another CA']), {
      acceptsTokens: false,
    });
  });
}
