/**
 * `bench/RESULTS.md`: its head, a section for each bench with what it was measured on, and notes
 * written by hand, which stay.
 *
 * Invariant: writing some sections keeps the others as they are, and drops those of benches that
 * there are no more. Knows no figures.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { readIfThere } from '../dev/files.ts';
import type { Bench, Section } from './bench.ts';
import { paragraph } from './markdown.ts';
import { BATCH_ITEMS, PAYLOAD_BYTES } from './workloads.ts';

const NOTES = 'Notes';

const METHOD = [
  `Written by \`npm run bench\`, of which each part can be run alone: \`npm run bench -- --help\`
  lists them. Each section names the machine that it was measured on.`,
  `The service and the floor run on loopback beside their load generator: a plain grpc-js client in
  a process of its own, one HTTP/2 connection, a closed loop with the given number of calls in
  flight, messages encoded beforehand. The floor is a grpc-js server that decodes and encodes an
  EncryptRequest of ${PAYLOAD_BYTES} bytes of plaintext and returns it, under the service's own TLS
  settings (1.3, client certificate). Payloads have ${PAYLOAD_BYTES} bytes, data keys 32, contexts
  two entries; ReEncrypt goes to another key and context; batches have ${BATCH_ITEMS} items. The
  server is the built one, as the image runs it, with its defaults and one agent, and logs a line
  for each call.`,
  `Floor and calls alternate in short slices; a figure is the median of its slices, and "of floor"
  the median (lowest–highest) of each slice's share of the floor's rate in the same round; "these
  of floor" is the CPU time of server, agent and Postgres over that of the floor's server. Rates
  and CPU are of items, which for batches are ${BATCH_ITEMS} a call; latencies are of calls. CPU is
  user and system time by /proc.`,
];

/** Returns a bench's section: heading, when and where, what it found, its targets. */
export function sectionText(
  { title }: Pick<Bench, 'title'>,
  measured: string,
  { text, targets }: Section,
): string {
  return [
    `## ${title}`,
    paragraph(`Measured ${measured}.`),
    text,
    ...(targets.length > 0 ? [targets.join('\n')] : []),
  ].join('\n\n');
}

/** Writes a bench's figures to where its section, in this file, looks for them. */
export function writeFigures(file: string, { figures = {} }: Pick<Section, 'figures'>): void {
  const directory = join(dirname(file), 'figures');
  for (const [name, svg] of Object.entries(figures)) {
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, `${name}.svg`), svg);
  }
}

/** Writes a file with these sections, by title, and with what else it had that is still due. */
export function writeSections(
  file: string,
  benches: readonly Pick<Bench, 'title'>[],
  written: ReadonlyMap<string, string>,
): void {
  writeFileSync(file, withSections(readIfThere(file) ?? '', benches, written));
}

/** Returns a file's text with these sections, by title. */
export function withSections(
  before: string,
  benches: readonly Pick<Bench, 'title'>[],
  written: ReadonlyMap<string, string>,
): string {
  const old = new Map(
    before
      .split(/^(?=## )/m)
      .filter((part) => part.startsWith('## '))
      .map((part) => [/^## (.*)$/m.exec(part)?.[1] ?? '', part.trim()]),
  );
  const titles = [...benches.map(({ title }) => title), NOTES];
  const sections = titles.flatMap((title) => written.get(title) ?? old.get(title) ?? []);
  const head = METHOD.map((text) => paragraph(text));
  return `${['# Bench', ...head, ...sections].join('\n\n')}\n`;
}
