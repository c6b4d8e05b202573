/**
 * The section about envelopes and files, and its targets.
 */
import type { Compared, EnvelopeResults } from './envelopes.ts';
import type { FileResults, FileRow } from './files.ts';
import { paragraph, spread, table, target } from './markdown.ts';
import { PAYLOAD_BYTES } from './workloads.ts';

const OF_BARE = { values: 0.6, streams: 0.8 } as const;
const OF_OPENSSL = 0.5;
const MEGABYTES = 120;

const METHOD = `
  Envelopes of ${PAYLOAD_BYTES} bytes under a remembered data key, with a context of two, and
  streams, by the client, beside AES-256-GCM by node:crypto with a KeyObject and a random IV for
  each message, of as many bytes; a stream's messages have 64 KiB, and those that are decrypted are
  in memory of their own, as the stream's. Both run in one process, in turn; rates are of its CPU
  time, and "of it" is the median (lowest–highest) of the rounds'.`;

const FILES = `
  The command, as it is installed, beside \`openssl enc -aes-256-ctr\`, which authenticates nothing,
  in turn and each with its start and its end. The command's files are on disk when it ends; so the
  last ratio is to OpenSSL and a \`sync -d\` of its file. CPU is user and system time for a
  gigabyte.`;

/** Returns the section. */
export function envelopesText({ values, streams, files }: EnvelopeResults): string {
  const compared = [
    ...values.map((each) => [`${each.name} a value`, each, (n: number) => n.toFixed(0)] as const),
    ...streams.map(
      (each) =>
        [`${each.name} a stream`, each, (n: number) => `${(n / 1e6).toFixed(0)} MB`] as const,
    ),
  ];
  const size = sizeOf(files);
  return [
    paragraph(METHOD),
    table(
      ['', 'a CPU second', 'bare', 'of it'],
      compared.map(([name, { perSecond, floorPerSecond, ofFloor }, write]) => [
        name,
        write(perSecond),
        write(floorPerSecond),
        spread(ofFloor),
      ]),
    ),
    paragraph(FILES),
    table(
      ['file', 'MB/s', 'openssl MB/s', 'of it', 'of it with sync', 'CPU s', 'openssl CPU s', 'MB'],
      files.rows.map((row) => [
        `${row.name}, ${size}`,
        (row.perSecond / 1e6).toFixed(0),
        (row.opensslPerSecond / 1e6).toFixed(0),
        spread(row.ofOpenssl),
        spread(row.ofOpensslAndSync),
        row.cpu.toFixed(2),
        row.opensslCpu.toFixed(2),
        row.resident.toFixed(0),
      ]),
    ),
  ].join('\n\n');
}

/** Returns whether they are fast and small enough. */
export function envelopesTargets({ values, streams, files }: EnvelopeResults): string[] {
  return [
    ...values.map((each) => comparedTarget('a value', each, OF_BARE.values)),
    ...streams.map((each) => comparedTarget('a stream', each, OF_BARE.streams)),
    ...files.rows.flatMap((row) => fileTargets(row, sizeOf(files))),
  ];
}

function sizeOf({ bytes }: FileResults): string {
  return `${(bytes / 1e9).toFixed(2)} GB`;
}

function comparedTarget(what: string, { name, ofFloor: [ratio] }: Compared, least: number): string {
  const text = `${name} ${what}: ${ratio.toFixed(2)} of bare; to reach ${least.toFixed(2)}`;
  return target(ratio >= least, text);
}

function fileTargets({ name, ofOpenssl: [ratio], resident }: FileRow, size: string): string[] {
  return [
    target(
      ratio >= OF_OPENSSL,
      `${name} of ${size}: ${ratio.toFixed(2)} of OpenSSL; to reach ${OF_OPENSSL.toFixed(2)}`,
    ),
    target(
      resident <= MEGABYTES,
      `${name} of ${size}: ${resident.toFixed(0)} MB; to stay within ${MEGABYTES}`,
    ),
  ];
}
