/**
 * Metrics as a test reads them: the text of one scrape, taken apart line by line, by another reader
 * than the one that wrote it.
 */
import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';

/** One series in a text. */
export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*?)\})? (\S+)(?: # .*)?$/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"(?:,|$)/gy;

/** What a scrape brought. */
export class Scrape {
  readonly type: string;
  readonly text: string;
  readonly samples: readonly Sample[];

  constructor(type: string, text: string) {
    this.type = type;
    this.text = text;
    this.samples = text
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('#'))
      .map(sampleOf);
  }

  /** The names of the metrics, with their types, as the text declares them. */
  get types(): ReadonlyMap<string, string> {
    const declared = this.text.matchAll(/^# TYPE (\S+) (\S+)$/gm);
    return new Map([...declared].map(([, name = '', type = '']) => [name, type]));
  }

  /** The sum of the series of that name with at least these labels; 0 where there is none. */
  sum(name: string, labels: Readonly<Record<string, string>> = {}): number {
    return this.series(name, labels).reduce((sum, { value }) => sum + value, 0);
  }

  /** The series of that name with at least these labels. */
  series(name: string, labels: Readonly<Record<string, string>> = {}): readonly Sample[] {
    return this.samples.filter(
      (sample) =>
        sample.name === name &&
        Object.entries(labels).every(([label, value]) => sample.labels[label] === value),
    );
  }
}

/** A page of the listener for operators. */
export interface PageAnswer {
  readonly status: number;
  readonly type: string;
  readonly text: string;
}

/** Asks for a page, of this machine, on a connection of its own. */
export async function getPage(
  port: number,
  { path = '/metrics', method = 'GET', accept = 'text/plain' } = {},
): Promise<PageAnswer> {
  const options = { host: '127.0.0.1', port, path, method, agent: false, headers: { accept } };
  const asked = request(options).end();
  const [answer] = (await once(asked, 'response')) as [IncomingMessage];
  const text = Buffer.concat(await answer.toArray()).toString();
  return { status: answer.statusCode ?? 0, type: answer.headers['content-type'] ?? '', text };
}

/** Scrapes what listens on that port of this machine. */
export async function scrape(port: number, accept?: string): Promise<Scrape> {
  const { status, type, text } = await getPage(port, { ...(accept !== undefined && { accept }) });
  if (status !== 200) throw new Error(`the answer’s status is ${status}: ${text}`);
  return new Scrape(type, text);
}

function sampleOf(line: string): Sample {
  const [, name, labels = '', value] = LINE.exec(line) ?? [];
  if (name === undefined || value === undefined) throw new Error(`not a line of metrics: ${line}`);
  const pairs = [...labels.matchAll(LABEL)].map(([, label = '', text = '']) => [label, text]);
  return { name, labels: Object.fromEntries(pairs), value: numberOf(value) };
}

function numberOf(text: string): number {
  if (text === '+Inf') return Number.POSITIVE_INFINITY;
  const value = Number(text);
  if (Number.isNaN(value) && !/^nan$/i.test(text)) throw new Error(`not a number: ${text}`);
  return value;
}
