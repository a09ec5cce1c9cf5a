/** Who waits at one address, in the order of arrival: for a lock that is there, or for a value. */
interface Waiter<T> {
  readonly who: T;
  readonly forLock: boolean;
}

export class WaitQueue<T> {
  private readonly waiters: Waiter<T>[] = [];
  /** How many of them wait for a value. */
  private forValue = 0;

  push(who: T, forLock: boolean): void {
    this.waiters.push({ who, forLock });
    if (!forLock) this.forValue++;
  }

  /**
   * Lets go on who can: all that wait for a value, and those that wait for the lock up to the first that has to wait longer.
   * @param goesOn tries it, and says whether it could go on
   * @returns true when nobody is left
   */
  serve(goesOn: (who: T) => boolean): boolean {
    const { waiters } = this;
    const left: Waiter<T>[] = [];
    let valuesToTry = this.forValue;
    let blocked = false;
    let at = 0;
    // Hundreds may stand behind the one that gets a lock: nobody looks at them.
    for (; at < waiters.length && !(blocked && valuesToTry === 0); at++) {
      const waiter = waiters[at] as Waiter<T>;
      if (!waiter.forLock) valuesToTry--;
      if ((waiter.forLock && blocked) || !goesOn(waiter.who)) {
        left.push(waiter);
        blocked ||= waiter.forLock;
      } else if (!waiter.forLock) this.forValue--;
    }
    waiters.splice(0, at, ...left);
    return waiters.length === 0;
  }
}
