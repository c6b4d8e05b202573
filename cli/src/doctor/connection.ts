/**
 * Checks the way to the service: its name, its port, its certificate.
 *
 * - Each check is a connection of its own, and sends no token.
 * - A server that is not verified is asked nothing.
 */
import { X509Certificate } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { connect as connectTcp, isIP } from 'node:net';
import { checkServerIdentity, connect as connectTls, type TLSSocket } from 'node:tls';
import { type Found, Trouble } from './examination.ts';
import { described, type Identity } from './files.ts';
import { strangerAt } from './strangers.ts';

/** Where the service should be. */
export interface Place {
  readonly host: string;
  readonly port: number;
  /** How long each step may take. */
  readonly timeoutMs: number;
}

/** What is known of both ends. */
export interface Ends {
  readonly ca: string;
  readonly identity: Identity | undefined;
  readonly serverName: string | undefined;
}

const WRONG_CA = new Set([
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'CERT_SIGNATURE_FAILURE',
]);

/** Splits `host:port`. Throws Trouble for what is not that. */
function placeOf(address: string, timeoutMs: number): Place {
  const [, bracketed, plain, digits] = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(address) ?? [];
  const [host, port] = [bracketed ?? plain, Number(digits)];
  if (host === undefined || !(port > 0 && port < 65_536))
    throw new Trouble(`${address} is no address`, 'write HOST:PORT, an IPv6 address in brackets');
  return { host, port, timeoutMs };
}

/** Takes the address apart, and looks its host up. */
export async function checkName(address: string, timeoutMs: number): Promise<Found<Place>> {
  const place = placeOf(address, timeoutMs);
  const { host } = place;
  if (isIP(host) !== 0) return { found: `${host} is an IP address`, value: place };
  try {
    const all = await lookup(host, { all: true });
    const found = `${host} is ${all.map((each) => each.address).join(', ')}`;
    return { found, value: place };
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new Trouble(
      code === 'ENOTFOUND'
        ? `${host} has no address in DNS`
        : `${host} cannot be looked up: ${code}`,
      'check the address for a mistake in the name, and the DNS of this machine or network',
      error,
    );
  }
}

/** Connects to the port. */
export function checkPort({ host, port, timeoutMs }: Place): Promise<Found<true>> {
  return new Promise((resolve, reject) => {
    const socket = connectTcp({ host, port });
    const fail = (found: string, remedy: string) => {
      socket.destroy();
      reject(new Trouble(found, remedy));
    };
    socket.setTimeout(timeoutMs, () =>
      fail(
        `nothing answered at ${host}, port ${port}, for ${timeoutMs / 1000} s`,
        'check the address, and the firewalls and routes between here and there',
      ),
    );
    socket.once('connect', () => {
      resolve({ found: `${socket.remoteAddress}, port ${port}, accepts connections`, value: true });
      socket.destroy();
    });
    socket.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED')
        fail(
          `nothing listens at ${host}, port ${port}`,
          'check the port, and whether the service runs',
        );
      else
        fail(
          `cannot connect to ${host}, port ${port}: ${error.code}`,
          'check the address and routes',
        );
    });
  });
}

/** Speaks TLS with the service, and verifies its certificate. Returns the connection. */
export async function checkTls(place: Place, ends: Ends): Promise<Found<TLSSocket>> {
  const socket = await handshake(place, ends);
  try {
    verify(socket, place, ends);
  } catch (error) {
    socket.destroy();
    throw error;
  }
  const certificate = certificateOf(socket);
  return { found: `1.3, with ${described(certificate)}`, value: socket };
}

function handshake(place: Place, { ca, identity, serverName }: Ends): Promise<TLSSocket> {
  const { host, port, timeoutMs } = place;
  const name = serverName ?? host;
  return new Promise((resolve, reject) => {
    const socket = connectTls({
      host,
      port,
      ca,
      ...(identity && { cert: identity.cert, key: identity.key }),
      servername: isIP(name) === 0 ? name : '',
      ALPNProtocols: ['h2'],
      minVersion: 'TLSv1.3',
      checkServerIdentity: (_, certificate) => checkServerIdentity(name, certificate),
      // What is wrong with the certificate is found out by `verify`, before anything is sent.
      rejectUnauthorized: false,
    });
    const fail = (error: NodeJS.ErrnoException | undefined) => {
      socket.destroy();
      noTls(place, error).then(reject, reject);
    };
    socket.setTimeout(timeoutMs, () => fail(undefined));
    socket.once('error', fail);
    socket.once('secureConnect', () => {
      socket.setTimeout(0);
      socket.off('error', fail);
      // From here on its user hears of its end by `close`.
      socket.on('error', () => {});
      resolve(socket);
    });
  });
}

/** Who is there that does not speak TLS as the service does. */
async function noTls(place: Place, error: NodeJS.ErrnoException | undefined): Promise<Trouble> {
  const { host, port, timeoutMs } = place;
  const at = `at ${host}, port ${port}`;
  const remedy = 'check the port: the service’s is that of KEYWARD_LISTEN';
  if (error?.code?.includes('PROTOCOL_VERSION'))
    return new Trouble(`a server ${at} speaks TLS, but not 1.3: it is not Keyward`, remedy, error);
  if (error?.code?.includes('NO_APPLICATION_PROTOCOL'))
    return new Trouble(
      `a server ${at} speaks TLS, but not HTTP/2: it is not Keyward’s gRPC`,
      remedy,
      error,
    );
  const stranger = await strangerAt(place);
  if (stranger !== undefined) return new Trouble(`${stranger} answers ${at}`, remedy, error);
  return error === undefined
    ? new Trouble(
        `something ${at} accepts connections and answers nothing for ${timeoutMs / 1000} s`,
        `${remedy}; if it is right, look at the service’s load, and at proxies between`,
      )
    : new Trouble(`something ${at} ends TLS’s handshake: ${error.code}`, remedy, error);
}

/** Throws Trouble where the server is not proven to be the one that is wanted. */
function verify(socket: TLSSocket, { host }: Place, { serverName }: Ends): void {
  const certificate = certificateOf(socket);
  const whose = `the server’s certificate (${described(certificate)})`;
  // A string, whatever the types say.
  const code = socket.authorized ? undefined : String(socket.authorizationError);
  if (code !== undefined && WRONG_CA.has(code))
    throw new Trouble(
      `${whose} was not issued by the CA that is given, but by ${issuerOf(certificate)}`,
      'give --ca-file with the CA of the service, from those who run it; if it is the right one, ' +
        'something else answers at this address',
    );
  if (code === 'CERT_HAS_EXPIRED')
    throw new Trouble(
      `${whose} has expired`,
      `tell those who run the service, unless your clock is wrong: it shows ${clock()}`,
    );
  if (code === 'CERT_NOT_YET_VALID')
    throw new Trouble(
      `${whose} is not valid before ${new Date(certificate.validFrom).toISOString()}`,
      `set your clock, which shows ${clock()}`,
    );
  const name = serverName ?? host;
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID')
    throw new Trouble(
      `${whose} is not for ${name}, but for ${certificate.subjectAltName ?? 'no name'}`,
      serverName === undefined
        ? 'use one of these names in the address, or give it with --server-name'
        : 'give one of these names with --server-name',
    );
  if (code !== undefined)
    throw new Trouble(`${whose} cannot be verified: ${code}`, 'tell those who run the service');
  if (socket.alpnProtocol !== 'h2')
    throw new Trouble(
      `${whose} is right, but it does not speak HTTP/2: it is not Keyward’s gRPC`,
      'check the port: the service’s is that of KEYWARD_LISTEN',
    );
}

function certificateOf(socket: TLSSocket): X509Certificate {
  // `getPeerX509Certificate` gives it once, and leaves nothing to `getPeerCertificate`.
  return new X509Certificate(socket.getPeerCertificate().raw);
}

function issuerOf({ issuer }: X509Certificate): string {
  return (issuer ?? 'no one').replaceAll('\n', ', ');
}

function clock(): string {
  return new Date().toISOString();
}
