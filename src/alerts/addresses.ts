/**
 * Which addresses alerts may be sent to: none in a network of the machine's own, unless the
 * receiver names that.
 *
 * - A host is resolved once, and the connection is made to an address that was looked at: a name
 *   that means another address a moment later leads nowhere else.
 * - A name any of whose addresses is private is private.
 */
import { lookup } from 'node:dns/promises';
import { BlockList, isIP } from 'node:net';

/** Not of the internet (IANA's registries of special-purpose addresses). */
const PRIVATE = new BlockList();
for (const [prefix, length] of [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.0.2.0', 24],
  ['192.88.99.0', 24],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15],
  ['198.51.100.0', 24],
  ['203.0.113.0', 24],
  ['224.0.0.0', 4],
  ['240.0.0.0', 4],
] as const)
  PRIVATE.addSubnet(prefix, length, 'ipv4');
for (const [prefix, length] of [
  ['::', 96],
  // Translated to IPv4, of whatever network.
  ['64:ff9b::', 96],
  ['64:ff9b:1::', 48],
  ['100::', 64],
  ['2001::', 23],
  ['2001:db8::', 32],
  ['2002::', 16],
  ['3fff::', 20],
  ['5f00::', 16],
  ['fc00::', 7],
  ['fe80::', 10],
  ['fec0::', 10],
  ['ff00::', 8],
] as const)
  PRIVATE.addSubnet(prefix, length, 'ipv6');

/** Whether an address is in a network of the machine's own, or of no network. */
export function isPrivateAddress(address: string): boolean {
  const family = isIP(address);
  // BlockList takes an IPv6 address that maps one of IPv4 for that.
  return family === 0 || PRIVATE.check(address, family === 6 ? 'ipv6' : 'ipv4');
}

/** Whether an address is the machine itself. */
export function isLoopbackAddress(address: string): boolean {
  return /^(127\.|::1$|::ffff:127\.)/i.test(address);
}

/** Says where a receiver is. */
export interface Destination {
  readonly host: string;
  readonly allowPrivateNetwork: boolean;
}

/**
 * Returns the address to connect to. Throws Error for a host that cannot be resolved, or that leads
 * into a private network without leave.
 */
export async function addressOf({ host, allowPrivateNetwork }: Destination): Promise<string> {
  const literal = host.replace(/^\[(.*)\]$/, '$1');
  const found =
    isIP(literal) === 0
      ? (await lookup(literal, { all: true })).map(({ address }) => address)
      : [literal];
  const [first] = found;
  if (first === undefined) throw new Error(`cannot resolve ${host}: it has no address`);
  const inside = found.find(isPrivateAddress);
  if (inside !== undefined && !allowPrivateNetwork)
    throw new Error(
      `cannot connect to ${host}: it leads to ${inside}, which is not an address of the ` +
        'internet; the receiver must have allowPrivateNetwork for that',
    );
  return first;
}
