/** WebAssembly, as far as it is used here: TypeScript has its types with those of browsers only. */
declare namespace WebAssembly {
  interface ImportDescription {
    readonly module: string;
    readonly name: string;
    readonly kind: string;
  }
  class Module {
    constructor(bytes: Uint8Array);
    static imports(module: Module): ImportDescription[];
  }
  class Memory {
    readonly buffer: ArrayBuffer;
    constructor(description: { readonly initial: number });
  }
  class Table {
    get(index: number): unknown;
  }
  class Global {
    value: number | bigint;
  }
  class RuntimeError extends Error {}
  type ImportValue = Memory | ((...args: never[]) => unknown);
  type ModuleImports = Record<string, ImportValue>;
  type Exports = Readonly<Record<string, unknown>>;
  class Instance {
    readonly exports: Exports;
    constructor(module: Module, imports: Record<string, ModuleImports>);
  }
}
