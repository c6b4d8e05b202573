/**
 * The process' metrics: what is counted as it happens, what is read from parts when it is asked
 * for, and both as text for Prometheus.
 *
 * - There are no metrics and labels but those of `table.ts`.
 * - Counting as it happens is an addition: prom-client's own counters take 0.9 µs each (measured),
 *   most of it to find the series by its labels. Here the series is found once and kept.
 * - A reading that fails takes its own metric out of the text, and nothing else.
 * - prom-client has the text's form, and what it measures of every Node process.
 */
import { collectDefaultMetrics, type Metric, Registry } from 'prom-client';
import {
  type Aggregator,
  type Exemplar,
  type Figure,
  mergeFigures,
  type Value,
} from './figures.ts';
import { type LabelsOf, METRICS, type MetricName, type MetricRow, type NameOf } from './table.ts';

/** A text, and its type. */
export interface MetricsText {
  readonly type: string;
  readonly body: Buffer;
}

/** One series of a counter. */
export interface Count {
  value: number;
}

/** Labels and their values, as text has them. */
type Labels = Readonly<Record<string, string>>;
/** A value that is read, and its labels. */
export type Reading<Name extends MetricName> = readonly [labels: LabelsOf<Name>, value: number];

/** Returns the figures of all processes that this one's metrics are to be the sum of. */
export type Gather = () => Promise<readonly (readonly Figure[])[]>;

/** The texts that there are; OpenMetrics has exemplars. */
const FORMATS = {
  plain: Registry.PROMETHEUS_CONTENT_TYPE,
  openMetrics: Registry.OPENMETRICS_CONTENT_TYPE,
} as const;
/** So long one text is the answer to all that ask for it: making it is the costly part. */
const TEXT_MS = 200;
const OPEN_METRICS = /(^|,)\s*application\/openmetrics-text\s*(;|,|$)/i;

/** Counts, reads, and tells. */
export class Metrics {
  readonly #registry = new Registry();
  readonly #families = new Map<MetricName, Family>();
  readonly #refreshes: (() => Promise<void>)[] = [];
  readonly #texts = new Map<string, { readonly madeAt: number; readonly text: Promise<Buffer> }>();

  readonly #gather: Gather | undefined;

  /** `gather` is for one of several processes: each answers for all. */
  constructor(gather?: Gather) {
    this.#gather = gather;
    for (const [name, row] of Object.entries(METRICS)) {
      const family = new Family(name, row);
      this.#families.set(name as MetricName, family);
      this.#registry.registerMetric(family as unknown as Metric);
    }
  }

  /** Measures the process, too: its CPU, memory, event loop and garbage collection. */
  measureProcess(): void {
    collectDefaultMetrics({ register: this.#registry });
  }

  /** Returns the series of a counter with these labels: to be kept, and added to. */
  counter<Name extends NameOf<'counter'>>(name: Name, labels: LabelsOf<Name>): Count {
    return this.#family(name).count(labels);
  }

  /** Returns the series of a histogram with these labels: to be kept, and told of values. */
  histogram<Name extends NameOf<'histogram'>>(name: Name, labels: LabelsOf<Name>): Distribution {
    return this.#family(name).distribution(labels);
  }

  /** Has the values of a gauge, or of a counter that is kept elsewhere, read for each text. */
  read<Name extends NameOf<'gauge' | 'counter'>>(
    name: Name,
    read: () => Iterable<Reading<Name>>,
  ): void {
    this.#family(name).readers.push(read as () => Iterable<readonly [Labels, number]>);
  }

  /** Has this done, and waited for, before each text. It must not take long. */
  beforeText(refresh: () => Promise<void>): void {
    this.#refreshes.push(refresh);
  }

  /** Returns the text, in the form that the header `Accept` asks for. */
  async text(accept: string): Promise<MetricsText> {
    const type = OPEN_METRICS.test(accept) ? FORMATS.openMetrics : FORMATS.plain;
    const last = this.#texts.get(type);
    const now = performance.now();
    if (last !== undefined && now - last.madeAt < TEXT_MS) return { type, body: await last.text };
    const text = this.#make(type);
    this.#texts.set(type, { madeAt: now, text });
    return { type, body: await text };
  }

  #family(name: MetricName): Family {
    const family = this.#families.get(name);
    if (family === undefined) throw new Error(`there is no metric ${name}`);
    return family;
  }

  /** Returns this process' own figures. */
  async figures(): Promise<readonly Figure[]> {
    await Promise.all(this.#refreshes.map((refresh) => refresh().catch(() => {})));
    return (await this.#registry.getMetricsAsJSON()) as unknown as readonly Figure[];
  }

  async #make(type: string): Promise<Buffer> {
    const gathered = await this.#gather?.();
    const figures = gathered === undefined ? await this.figures() : mergeFigures(gathered);
    const registry = registryOf(figures, type);
    return Buffer.from(await registry.metrics());
  }
}

/** Returns a registry of these figures; OpenMetrics has counters by other names. */
function registryOf(figures: readonly Figure[], type: string): Registry {
  const registry = new Registry();
  registry.setContentType(type as typeof FORMATS.plain);
  for (const figure of figures) {
    const isRenamed = type === FORMATS.openMetrics && figure.type === 'counter';
    const name = isRenamed ? figure.name.replace(/_total$/, '') : figure.name;
    const get = async () => ({ ...figure, name });
    registry.registerMetric({ name, type: figure.type, get } as unknown as Metric);
  }
  return registry;
}

/** One row of the table, and its series. */
class Family {
  readonly name: string;
  readonly help: string;
  readonly type: MetricRow['type'];
  readonly aggregator: Aggregator;
  readonly readers: (() => Iterable<readonly [Labels, number]>)[] = [];
  readonly #buckets: readonly number[];
  readonly #counts = new Map<string, Count & { readonly labels: Labels }>();
  readonly #distributions = new Map<string, Distribution>();

  constructor(name: string, { type, help, together = 'sum', buckets = [] }: MetricRow) {
    this.name = name;
    this.help = help;
    this.type = type;
    this.aggregator = together;
    this.#buckets = buckets;
  }

  count(labels: Labels): Count {
    return entryOf(this.#counts, labels, () => ({ labels, value: 0 }));
  }

  distribution(labels: Labels): Distribution {
    return entryOf(this.#distributions, labels, () => new Distribution(labels, this.#buckets));
  }

  async get() {
    const { name, help, type, aggregator } = this;
    const values: Value[] = [...this.#counts.values()];
    for (const read of this.readers) {
      try {
        for (const [labels, value] of read()) values.push({ labels, value });
      } catch {
        // Its part is not there yet, or not any more: what it would say is not known.
      }
    }
    for (const each of this.#distributions.values()) values.push(...each.values(name));
    return { name, help, type, aggregator, values };
  }
}

/** One series of a histogram. */
export class Distribution {
  readonly #labels: Labels;
  readonly #bounds: readonly number[];
  /** Of values up to each bound and above the one before; the last, above all. */
  readonly #counts: Float64Array;
  readonly #exemplars: (Exemplar | undefined)[] = [];
  #sum = 0;

  constructor(labels: Labels, bounds: readonly number[]) {
    this.#labels = labels;
    this.#bounds = bounds;
    this.#counts = new Float64Array(bounds.length + 1);
  }

  /** Adds a value, and what it is an example of. */
  observe(value: number, traceId?: string): void {
    const bounds = this.#bounds;
    let bucket = 0;
    while (bucket < bounds.length && value > (bounds[bucket] ?? 0)) bucket += 1;
    this.#counts[bucket] = (this.#counts[bucket] ?? 0) + 1;
    this.#sum += value;
    if (traceId !== undefined)
      this.#exemplars[bucket] = {
        labelSet: { trace_id: traceId },
        value,
        timestamp: Date.now() / 1_000,
      };
  }

  /** Returns its values, as the text has them. */
  values(name: string): Value[] {
    let count = 0;
    const buckets = [...this.#counts].map((more, bucket): Value => {
      count += more;
      const labels = { le: this.#bounds[bucket] ?? '+Inf', ...this.#labels };
      const exemplar = this.#exemplars[bucket];
      return { labels, value: count, metricName: `${name}_bucket`, exemplar };
    });
    const labels = this.#labels;
    return [
      ...buckets,
      { labels, value: this.#sum, metricName: `${name}_sum` },
      { labels, value: count, metricName: `${name}_count` },
    ];
  }
}

function entryOf<T>(entries: Map<string, T>, labels: Labels, make: () => T): T {
  const key = JSON.stringify(Object.entries(labels).sort());
  const known = entries.get(key);
  if (known !== undefined) return known;
  const made = make();
  entries.set(key, made);
  return made;
}
