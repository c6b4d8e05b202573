/**
 * Looks whether the database's schema is still one that this release may use: a migration that
 * takes something away from its code states a newer release, while this one runs.
 */
import { monotonicNow } from '../call.ts';
import { KeywardError } from '../errors.ts';
import { checkSchema } from '../store/core/requirements.ts';
import type { Store } from '../store/store.ts';
import type { Part } from './lifecycle.ts';
import { RELEASE } from './release.ts';

const LOOK_MS = 10_000;
const READ_MS = 5_000;

/** Returns the part that looks; `end` is told, in words for operators, why it may not go on. */
export function watchedSchema(store: Store, end: (why: string) => void): Part {
  let timer: NodeJS.Timeout | undefined;
  const look = async () => {
    try {
      await checkSchema(store, { deadline: monotonicNow() + READ_MS }, RELEASE);
    } catch (error) {
      // A database that is away says nothing about its schema.
      if (!(error instanceof KeywardError)) end((error as Error).message);
    }
  };
  return {
    name: 'the schema',
    start: () => {
      timer = setInterval(() => void look(), LOOK_MS);
    },
    stop: () => clearInterval(timer),
  };
}
