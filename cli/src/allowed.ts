/**
 * Remembers which folders' profiles the user has allowed (`client/src/settings/allowed.ts`).
 *
 * What a sign-in by one of them gave is bound to its address (`kept-sign-ins.ts`).
 */
import { mkdirSync } from 'node:fs';
import { allowedFile, digestOf, readAllowed } from 'keyward-client/settings';
import { writeOutput } from './files.ts';
import { configurationFolder, type Profiles } from './profiles.ts';

export { isAllowed } from 'keyward-client/settings';

/** Remembers that the user allows a folder's profiles as they are now. */
export async function allow(profiles: Profiles): Promise<void> {
  await writeAllowed({ ...readAllowed(), [profiles.file]: digestOf(profiles) });
}

/** Forgets that they were allowed. */
export async function deny({ file }: Profiles): Promise<void> {
  const { [file]: _, ...others } = readAllowed();
  await writeAllowed(others);
}

async function writeAllowed(allowed: Readonly<Record<string, unknown>>): Promise<void> {
  const file = allowedFile();
  mkdirSync(configurationFolder(), { recursive: true, mode: 0o700 });
  const text = `${JSON.stringify(allowed, null, 2)}\n`;
  await writeOutput(file, Buffer.from(text), { secret: true, force: true });
}
