/**
 * Goes the way to the service, as far as it is open: files, name, port, TLS.
 *
 * - Other commands go the same way when the service cannot be reached, and so report the same.
 */
import type { TLSSocket } from 'node:tls';
import type { Settings } from '../profiles.ts';
import { checkName, checkPort, checkTls, placeOf } from './connection.ts';
import { Examination } from './examination.ts';
import { checkCa, checkCertificate, type Identity } from './files.ts';

/** How far the way was open. */
export interface Reached {
  /** A connection to the service, verified. */
  readonly socket: TLSSocket | undefined;
  readonly identity: Identity | undefined;
}

type Wanted = Settings & { readonly address: string; readonly caFile: string };

/** Checks everything between the caller and the service. */
export async function reach(
  examination: Examination,
  settings: Wanted,
  timeoutMs: number,
): Promise<Reached> {
  const { address, caFile, certFile, keyFile, serverName } = settings;
  const ca = await examination.check('CA', () => checkCa(caFile));
  const identity =
    certFile === undefined || keyFile === undefined
      ? undefined
      : await examination.check('certificate', () => checkCertificate(certFile, keyFile));
  const { passes } = examination;
  const isOpen =
    (await examination.check('name', () => checkName(placeOf(address, timeoutMs)))) !== undefined &&
    (await examination.check('port', () => checkPort(placeOf(address, timeoutMs)))) !== undefined;
  const skipped = (why: string): Reached => {
    examination.skip(['TLS'], why);
    return { socket: undefined, identity };
  };
  if (!isOpen) return skipped('there is no connection');
  if (ca === undefined || !passes) return skipped('the files above cannot be used');
  const socket = await examination.check('TLS', () =>
    checkTls(placeOf(address, timeoutMs), { ca, identity, serverName }),
  );
  return { socket, identity };
}

/** Returns what is wrong on the way to the service, in the doctor's words, if anything is. */
export async function troubleOnTheWay(
  settings: Wanted,
  timeoutMs: number,
): Promise<string | undefined> {
  const examination = new Examination();
  const { socket } = await reach(examination, settings, timeoutMs);
  socket?.destroy();
  return examination.findings.find(({ outcome }) => outcome === 'FAILED')?.found;
}
