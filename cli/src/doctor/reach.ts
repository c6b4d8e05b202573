/**
 * Goes the way to the service, as far as it is open: files, name, port, TLS.
 *
 * - Other commands go the same way when the service cannot be reached, and so report the same.
 */
import type { TLSSocket } from 'node:tls';
import type { Settings } from '../profiles.ts';
import { checkName, checkPort, checkTls, type Ends } from './connection.ts';
import { Examination } from './examination.ts';
import { checkCa, checkCertificate, type Identity } from './files.ts';

/** How far the way was open. */
export interface Reached {
  /** A connection to the service, verified. */
  readonly socket: TLSSocket | undefined;
  readonly identity: Identity | undefined;
}

type Wanted = Settings & { readonly address: string; readonly caFile: string };

/** Checks everything between the caller and the service, at each of its addresses. */
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
  const ends = ca === undefined || !examination.passes ? undefined : { ca, identity, serverName };
  let reached: TLSSocket | undefined;
  for (const each of address.split(',').map((text) => text.trim())) {
    const socket = await reachOne(examination, each, ends, timeoutMs);
    if (reached === undefined) reached = socket;
    else socket?.destroy();
  }
  return { socket: reached, identity };
}

/** Goes the way to one of the service's addresses; `ends` where the files can be used. */
async function reachOne(
  examination: Examination,
  address: string,
  ends: Ends | undefined,
  timeoutMs: number,
): Promise<TLSSocket | undefined> {
  const place = await examination.check('name', () => checkName(address, timeoutMs));
  if (place === undefined) {
    examination.skip(['port', 'TLS'], 'there is no address to connect to');
    return undefined;
  }
  const isOpen = (await examination.check('port', () => checkPort(place))) !== undefined;
  if (isOpen && ends !== undefined) return examination.check('TLS', () => checkTls(place, ends));
  examination.skip(['TLS'], isOpen ? 'the files above cannot be used' : 'there is no connection');
  return undefined;
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
