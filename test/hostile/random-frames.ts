/**
 * Frames at random, the same ones for the same seed: of every type and of none, of lengths that are
 * right and wrong, on streams that are open and not, mostly valid enough to get somewhere.
 *
 * Knows no limit of the server's.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  FLAG,
  FRAME,
  type FrameClient,
  frame,
  grpcFrame,
  headerBlock,
  uint32,
} from '../faults/http2.ts';
import { randomBy, SEED } from '../support/random.ts';
import type { Flood, Flooder } from './rig.ts';

const PATHS = [
  '/keyward.v1.AdminService/ListTenants',
  '/keyward.v1.EncryptionService/Encrypt',
  '/grpc.health.v1.Health/Check',
  '/grpc.health.v1.Health/Watch',
  '/no.such.Service/Method',
];
const FRAMES_AT_ONCE = 200;
const TYPES = Object.values(FRAME);

/**
 * The flood for so many milliseconds. Its seed is in what is said when it fails; KEYWARD_TEST_SEED
 * repeats it.
 */
export function randomFrames(ms: number): Flood {
  return {
    name: 'frames at random',
    toRepeat: `KEYWARD_TEST_SEED=${SEED}`,
    run: (flooder) => flood(flooder, new Dice(SEED), ms),
  };
}

async function flood(flooder: Flooder, dice: Dice, ms: number): Promise<void> {
  const end = performance.now() + ms;
  while (performance.now() < end) {
    const client = await flooder.connect({ isResettable: true });
    if (client === undefined) continue;
    await fill(client, dice, end);
    if (dice.happens(0.3)) await client.reset();
    else client[Symbol.dispose]();
  }
}

/** Sends on one connection until it is closed, or has had enough. */
async function fill(client: FrameClient, dice: Dice, end: number): Promise<void> {
  let isOver = false;
  void client.closed.then(() => {
    isOver = true;
  });
  if (dice.happens(0.95))
    client.begin(dice.happens(0.2) ? [[dice.below(8), dice.below(2 ** 32)]] : []);
  if (dice.happens(0.3)) client.stopReading();
  let streams = 0;
  for (let round = dice.below(20); round >= 0 && !isOver && performance.now() < end; round--) {
    const frames = Array.from({ length: dice.below(FRAMES_AT_ONCE) }, () => {
      if (dice.happens(0.3)) streams += 1;
      return randomFrame(dice, 2 * streams + 1);
    });
    client.send(...frames.flat());
    await sleep(dice.below(5));
  }
}

/** A frame, or a whole request. */
function randomFrame(dice: Dice, newest: number): Buffer {
  const stream = dice.happens(0.7) ? newest : dice.below(newest + 3);
  const block = () =>
    headerBlock(dice.one(PATHS), dice.happens(0.2) ? [['grpc-timeout', '40m']] : []);
  if (dice.happens(0.3)) {
    const data = frame(FRAME.data, FLAG.endStream, stream, grpcFrame(dice.bytes(dice.below(64))));
    return Buffer.concat([frame(FRAME.headers, FLAG.endHeaders, stream, block()), data]);
  }
  if (dice.happens(0.3)) return frame(FRAME.headers, dice.below(64), stream, block());
  if (dice.happens(0.2)) return frame(FRAME.rstStream, 0, stream, uint32(dice.below(16)));
  if (dice.happens(0.2))
    return frame(FRAME.windowUpdate, 0, dice.one([0, stream]), uint32(1 + dice.below(1_000)));
  if (dice.happens(0.2)) return frame(FRAME.ping, dice.below(2), 0, dice.bytes(8));
  if (dice.happens(0.8))
    return frame(FRAME.data, dice.below(2), stream, dice.bytes(dice.below(2_000)));
  const type = dice.happens(0.9) ? dice.one(TYPES) : dice.below(256);
  return frame(type, dice.below(256), dice.one([0, stream]), dice.bytes(dice.below(100)));
}

/** Mulberry32: numbers that look random, from a seed. */
class Dice {
  readonly #roll: () => number;

  constructor(seed: number) {
    this.#roll = randomBy(seed);
  }

  happens(probability: number): boolean {
    return this.#roll() < probability;
  }

  /** A whole number from 0 to below the limit. */
  below(limit: number): number {
    return Math.floor(this.#roll() * limit);
  }

  one<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)] as T;
  }

  bytes(count: number): Buffer {
    return Buffer.from(Array.from({ length: count }, () => this.below(256)));
  }
}
