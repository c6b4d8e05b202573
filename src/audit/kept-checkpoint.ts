/**
 * The last checkpoint, kept outside of Postgres, so that an older database in place of the one that
 * was is noticed.
 *
 * In a file, or behind a URL that answers GET with what PUT gave it last (404 before);
 * `token-checkpoint.ts` keeps it in the token. Knows text, not what it says.
 */
import { open, readFile, rename } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { textOf } from './answer.ts';

const TIMEOUT_MS = 5_000;
/** More than a checkpoint with cosignatures ever has. */
const MAX_BYTES = 65_536;

export interface KeptCheckpoint {
  /**
   * The note that was kept last; undefined before the first. Throws when that can't be found out.
   */
  read(): Promise<string | undefined>;
  /** Keeps the note; durable when it returns, unless it is kept coarsely there. */
  write(note: string): Promise<void>;
  /**
   * Keeps the note that was given last, where coarseness has left it out; when nothing more comes.
   */
  flush?(): Promise<void>;
}

/** `file:`, `http:` or `https:`. */
export function openKeptCheckpoint(url: string): KeptCheckpoint {
  return new URL(url).protocol === 'file:' ? inFile(fileURLToPath(url)) : behind(url);
}

/**
 * The notes that are kept, of as many places as have one. Throws when one of them can't be asked.
 */
export async function readKept(places: readonly Pick<KeptCheckpoint, 'read'>[]): Promise<string[]> {
  const notes = await Promise.all(places.map((place) => place.read()));
  return notes.filter((note) => note !== undefined);
}

function inFile(path: string): KeptCheckpoint {
  return {
    read: async () => {
      try {
        return await readFile(path, 'utf8');
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
        throw error;
      }
    },
    write: async (note) => {
      const next = `${path}.next`;
      const file = await open(next, 'w', 0o644);
      try {
        await file.writeFile(note);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(next, path);
    },
  };
}

function behind(url: string): KeptCheckpoint {
  const request = async (init: RequestInit): Promise<Response> => {
    const response = await fetch(url, {
      ...init,
      redirect: 'error',
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (response.ok && init.method === 'GET') return response;
    // Else the connection would be held until somebody reads what it brings.
    await response.body?.cancel();
    if (response.ok || (init.method === 'GET' && response.status === 404)) return response;
    throw new Error(`KEYWARD_AUDIT_KEPT_CHECKPOINT answers ${response.status}`);
  };
  return {
    read: async () => {
      const response = await request({ method: 'GET' });
      if (response.status === 404) return undefined;
      return textOf(
        response,
        MAX_BYTES,
        'KEYWARD_AUDIT_KEPT_CHECKPOINT answers with something larger than a checkpoint',
      );
    },
    write: async (note) => {
      const headers = { 'content-type': 'text/plain; charset=utf-8' };
      await request({ method: 'PUT', headers, body: note });
    },
  };
}
