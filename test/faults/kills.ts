/**
 * Case 68: agents killed in the middle of each operation, as often as the caller wants.
 *
 * In the middle means inside a PKCS#11 function, a different one each round. Whatever was
 * acknowledged opens at the end.
 */
import assert from 'node:assert/strict';
import { type FaultyService, KEY, PARENT, PLAINTEXT } from './service.ts';

/**
 * One way to call the service, and where its agent is killed: in these calls of these functions.
 */
interface Operation {
  readonly name: string;
  readonly points: readonly string[];
  /** Resolves to a ciphertext that has to open ever after, if there is one. */
  run(faulty: FaultyService, round: number): Promise<Buffer | undefined>;
}

const at = (name: string, calls: number) =>
  Array.from({ length: calls }, (_, index) => `${name} kill after ${index}`);
const USING = [...at('C_SignInit', 1), ...at('C_Sign', 1)];
const CREATING = [
  ...at('C_GenerateKey', 1),
  ...at('C_WrapKey', 1),
  ...at('C_UnwrapKey', 2),
  ...at('C_DestroyObject', 2),
  ...at('C_SignInit', 4),
  ...at('C_Sign', 4),
];

/** How often a kill may meet what the service does by itself. */
const TRIES = 5;
/** So many rounds kill an agent at each point of every operation. */
export const POINTS = CREATING.length;

const OPERATIONS: readonly Operation[] = [
  {
    name: 'create',
    points: CREATING,
    run: async ({ keyward }, round) => {
      await keyward.createKey({ parent: PARENT, keyId: `created-${round}` });
      return undefined;
    },
  },
  {
    name: 'rotate',
    points: CREATING,
    run: async ({ keyward }) => {
      await keyward.rotateKey({ name: KEY });
      return undefined;
    },
  },
  { name: 'encrypt', points: USING, run: async (faulty) => (await faulty.encrypt()).ciphertext },
  {
    name: 'decrypt',
    points: USING,
    run: async (faulty) => {
      assert.ok(faulty.ciphertext);
      assert.deepEqual((await faulty.decrypt(faulty.ciphertext)).plaintext, PLAINTEXT);
      return undefined;
    },
  },
  {
    name: 'data key',
    points: ['C_GenerateRandom kill', ...USING],
    run: async ({ keyward }) => (await keyward.generateDataKey({ name: KEY })).wrappedDataKey,
  },
];

/**
 * Kills an agent in the middle of every operation, `rounds` times each, at its points from `from`
 * on, and fails unless that costs one call each.
 */
export async function killInTheMiddle(
  faulty: FaultyService,
  options: { readonly rounds: number; readonly from?: number },
): Promise<void> {
  const acknowledged: Buffer[] = [];
  const { rounds, from = 0 } = options;
  for (let round = from; round < from + rounds; round++) {
    for (const operation of OPERATIONS) {
      const point = operation.points[round % operation.points.length];
      const where = `${operation.name}, round ${round}: ${point}`;
      let attempt = round * TRIES;
      let failure = await killedIn(faulty, operation, point, attempt);
      while (failure === undefined && attempt + 1 < (round + 1) * TRIES) {
        attempt += 1;
        failure = await killedIn(faulty, operation, point, attempt);
      }
      assert.equal(failure, 'HSM_UNAVAILABLE', where);
      const ciphertext = await operation.run(faulty, attempt);
      if (ciphertext) acknowledged.push(ciphertext);
    }
  }
  for (const ciphertext of acknowledged) await faulty.decrypt(ciphertext);
}

/**
 * Kills an agent at the point; returns why the operation failed, and undefined where the service
 * was doing something by itself there.
 */
async function killedIn(
  faulty: FaultyService,
  operation: Operation,
  point: string | undefined,
  attempt: number,
): Promise<string | undefined> {
  await faulty.settled();
  faulty.faults.set(`${point} times 1`);
  const reason = await operation.run(faulty, attempt).then(
    () => undefined,
    (error: unknown) => String((error as { reason?: unknown }).reason),
  );
  assert.equal(faulty.faults.met(), 1, `${operation.name}: ${point}`);
  faulty.faults.set();
  return reason;
}
