/**
 * Certificates and private keys in PEM files, each of which is whole or refused.
 *
 * - OpenSSL takes of a file what it can read, and leaves out what is damaged behind that; here one
 *   damaged certificate makes the file invalid.
 * - What is thrown names the file and what is wrong with it, and holds nothing of its content.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';

const MARK = /-----(BEGIN|END) ([A-Z0-9 ]+)-----/g;
const CERTIFICATES = ['CERTIFICATE', 'X509 CERTIFICATE', 'TRUSTED CERTIFICATE'];

/** Returns the certificates of a file, one at least. Throws Error if one of them is damaged. */
export function certificatesIn(pem: string, path: string): X509Certificate[] {
  const blocks = blocksIn(pem, path).filter(({ label }) => CERTIFICATES.includes(label));
  if (blocks.length === 0) throw new Error(`${path} has no certificate`);
  return blocks.map(({ text }, index) => {
    try {
      return new X509Certificate(text);
    } catch (cause) {
      const which = `certificate ${index + 1} of ${blocks.length}`;
      throw new Error(`${path}: ${which} is damaged`, { cause });
    }
  });
}

/**
 * Requires a file of certificates that others are verified against: of CAs, or issued by
 * themselves. Throws Error.
 */
export function requireAuthorities(pem: string, path: string): void {
  for (const [index, certificate] of certificatesIn(pem, path).entries()) {
    if (certificate.ca || certificate.checkIssued(certificate)) continue;
    throw new Error(`${path}: certificate ${index + 1} is not one of a CA`);
  }
}

/** Returns the private key of a file. Throws Error for one that is encrypted or damaged. */
export function privateKeyIn(pem: string, path: string): KeyObject {
  const keys = blocksIn(pem, path).filter(({ label }) => label.endsWith('PRIVATE KEY'));
  const [key] = keys;
  if (key === undefined) throw new Error(`${path} has no private key`);
  if (key.label.startsWith('ENCRYPTED') || key.text.includes('Proc-Type: 4,ENCRYPTED'))
    throw new Error(`${path} is encrypted; decrypt it with \`openssl pkey\``);
  try {
    return createPrivateKey(key.text);
  } catch (cause) {
    throw new Error(`${path}: the private key is damaged`, { cause });
  }
}

/** A certificate's or a key's file. */
interface PemFile {
  readonly pem: string;
  readonly path: string;
}

/** Requires that the key is that of the first certificate. Throws Error. */
export function requirePair(certificate: PemFile, key: PemFile): void {
  const [leaf] = certificatesIn(certificate.pem, certificate.path);
  if (!leaf?.checkPrivateKey(privateKeyIn(key.pem, key.path)))
    throw new Error(`${key.path} is not the key of the certificate in ${certificate.path}`);
}

interface Block {
  readonly label: string;
  readonly text: string;
}

function blocksIn(pem: string, path: string): Block[] {
  if (pem.trim() === '') throw new Error(`${path} is empty`);
  const blocks: Block[] = [];
  let begun: { readonly label: string; readonly at: number } | undefined;
  for (const { index, 0: mark, 1: kind, 2: label = '' } of pem.matchAll(MARK)) {
    if ((kind === 'BEGIN') === (begun !== undefined) || (begun && begun.label !== label)) {
      throw new Error(`${path} is damaged: a line “${mark}” is out of place`);
    }
    if (begun === undefined) begun = { label, at: index };
    else {
      blocks.push({ label, text: `${pem.slice(begun.at, index)}${mark}\n` });
      begun = undefined;
    }
  }
  if (begun !== undefined) throw new Error(`${path} is cut off: a ${begun.label} has no end`);
  return blocks;
}
