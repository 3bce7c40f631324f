//! Threads that compile pipelines while recording goes on; they end when nothing waits. Browsers have none.

use super::kernel::Kernel;

#[cfg(target_arch = "wasm32")]
#[derive(Debug, Default)]
pub(super) struct Workers;

#[cfg(target_arch = "wasm32")]
impl Workers {
    pub fn compile(&self, kernel: Kernel) {
        std::sync::LazyLock::force(&kernel.inner.pipeline);
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(super) use native::Workers;

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use std::collections::VecDeque;
    use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
    use std::thread::{Builder, JoinHandle, available_parallelism};

    use super::Kernel;

    #[derive(Debug, Default)]
    pub struct Workers(Arc<Mutex<State>>);

    #[derive(Debug, Default)]
    struct State {
        waiting: VecDeque<Kernel>,
        running: usize,
        threads: Vec<JoinHandle<()>>,
    }

    fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    impl Workers {
        /// Has the kernel compiled by one of at most as many threads as the machine runs at once.
        pub fn compile(&self, kernel: Kernel) {
            let mut state = lock(&self.0);
            state.waiting.push_back(kernel);
            if state.running == available_parallelism().map_or(1, usize::from) {
                return;
            }
            state.threads.retain(|thread| !thread.is_finished());
            let shared = self.0.clone();
            let thread = Builder::new().name("benben-compile".to_owned()).spawn(move || work(&shared));
            // Without a thread, whoever submits the kernel compiles it.
            if let Ok(thread) = thread {
                state.running += 1;
                state.threads.push(thread);
            }
        }
    }

    fn work(shared: &Mutex<State>) {
        loop {
            let mut state = lock(shared);
            let Some(kernel) = state.waiting.pop_front() else {
                state.running -= 1;
                return;
            };
            drop(state);
            LazyLock::force(&kernel.inner.pipeline);
        }
    }

    impl Drop for Workers {
        /// Ends the threads before the device goes; `Poller` says why.
        fn drop(&mut self) {
            let mut state = lock(&self.0);
            state.waiting.clear();
            let threads = std::mem::take(&mut state.threads);
            drop(state);
            threads.into_iter().for_each(|thread| drop(thread.join()));
        }
    }
}
