//! Calls of one kind that many make at once, made in one transaction.
//!
//! While a group is in flight, the next one fills; a lone call waits for nobody. So a commit, and its wait for the disk, is
//! shared by as many as there are, without a timer. There is no task behind it: the first of those who wait leads the
//! group, and the others get their answers from him.

use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::error::LedgerError;

/// Calls in one transaction. Enough that a commit costs each of them next to nothing (a millisecond of disk over 256
/// calls), and few enough that the locks of one group are held for some ten milliseconds.
const GROUP_MAX: usize = 256;

/// Cheap to clone; all clones gather together.
pub(super) struct Group<Call, Answer>(Arc<Gathering<Call, Answer>>);

struct Gathering<Call, Answer> {
    waiting: Mutex<Vec<Waiting<Call, Answer>>>,
    /// Held by whoever leads the group that is in flight.
    lead: tokio::sync::Mutex<()>,
}

struct Waiting<Call, Answer> {
    call: Call,
    answer: oneshot::Sender<Result<Answer, LedgerError>>,
}

impl<Call, Answer> Clone for Group<Call, Answer> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Call, Answer> Default for Group<Call, Answer> {
    fn default() -> Self {
        Self(Arc::new(Gathering { waiting: Mutex::default(), lead: tokio::sync::Mutex::default() }))
    }
}

impl<Call: Clone, Answer> Group<Call, Answer> {
    /// Makes a call together with those that others bring meanwhile. `all` makes many in one transaction, and has one answer
    /// for each in their order; should it fail over what one of them asks for, each is made alone, so that nobody pays for
    /// another's mistake.
    pub(super) async fn make<Made>(&self, call: Call, all: impl Fn(Vec<Call>) -> Made) -> Result<Answer, LedgerError>
    where
        Made: Future<Output = Result<Vec<Result<Answer, LedgerError>>, LedgerError>>,
    {
        let (answer, mut own) = oneshot::channel();
        self.0.waiting.lock().expect("nobody panics holding this lock").push(Waiting { call, answer });
        loop {
            let _lead = tokio::select! {
                biased;
                answered = &mut own => return answered.unwrap_or(Err(LedgerError::CutOff)),
                lead = self.0.lead.lock() => lead,
            };
            match own.try_recv() {
                // The last leader answered before he let go.
                Ok(answered) => return answered,
                Err(oneshot::error::TryRecvError::Closed) => return Err(LedgerError::CutOff),
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
            let group = {
                let mut waiting = self.0.waiting.lock().expect("nobody panics holding this lock");
                let count = waiting.len().min(GROUP_MAX);
                waiting.drain(..count).collect::<Vec<_>>()
            };
            metrics::histogram!("doorbuster_ledger_group_size").record(group.len() as f64);
            let (calls, answers): (Vec<_>, Vec<_>) =
                group.into_iter().map(|waiting| (waiting.call, waiting.answer)).unzip();
            for (to, answered) in answers.into_iter().zip(made(calls, &all).await) {
                // Whoever has gone away does not need it any more.
                let _ = to.send(answered);
            }
            // A leader with more than a group before him comes with a later one.
        }
    }
}

async fn made<Call: Clone, Answer, Made>(
    calls: Vec<Call>,
    all: &impl Fn(Vec<Call>) -> Made,
) -> Vec<Result<Answer, LedgerError>>
where
    Made: Future<Output = Result<Vec<Result<Answer, LedgerError>>, LedgerError>>,
{
    let error = match all(calls.clone()).await {
        Ok(answers) => return answers,
        Err(error) => error,
    };
    if calls.len() == 1 || !error.is_about_the_rows() {
        let error = Arc::new(error);
        return calls.iter().map(|_| Err(LedgerError::Group(Arc::clone(&error)))).collect();
    }
    let mut answers = Vec::with_capacity(calls.len());
    for call in calls {
        answers.push(match all(vec![call]).await {
            Ok(mut answered) => answered.pop().unwrap_or(Err(LedgerError::CutOff)),
            Err(error) => Err(error),
        });
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn refused() -> LedgerError {
        LedgerError::RowCount { statement: "test", expected: 1, changed: 0 }
    }

    #[tokio::test]
    async fn each_call_gets_its_own_answer_and_few_groups_are_made() {
        let (group, groups) = (Group::<usize, usize>::default(), AtomicUsize::new(0));
        let all = async |calls: Vec<usize>| {
            groups.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            assert!(calls.len() <= GROUP_MAX);
            Ok(calls.into_iter().map(|call| if call % 7 == 0 { Err(refused()) } else { Ok(call * 2) }).collect())
        };
        let answers = join_all((0..1_000).map(|call| group.make(call, all))).await;
        for (call, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.ok(), (call % 7 != 0).then_some(call * 2));
        }
        // The first comes alone, the others in full groups.
        assert!(groups.load(Ordering::Relaxed) <= 6, "{groups:?}");
    }

    #[tokio::test]
    async fn one_call_that_cannot_be_made_spoils_no_other() {
        let group = Group::<usize, usize>::default();
        let all = async |calls: Vec<usize>| {
            tokio::task::yield_now().await;
            if calls.contains(&13) { Err(refused()) } else { Ok(calls.into_iter().map(Ok).collect()) }
        };
        let answers = join_all((0..50).map(|call| group.make(call, all))).await;
        for (call, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.is_ok(), call != 13, "{call}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_asked_once() {
        let (group, asked) = (Group::<usize, usize>::default(), AtomicUsize::new(0));
        let all = async |_: Vec<usize>| {
            asked.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Err::<Vec<Result<usize, _>>, _>(LedgerError::Address("away".to_owned()))
        };
        let answers = join_all((0..100).map(|call| group.make(call, all))).await;
        assert!(answers.iter().all(|answer| matches!(answer, Err(LedgerError::Group(_)))));
        assert!(asked.load(Ordering::Relaxed) <= 2, "{asked:?}");
    }

    #[tokio::test]
    async fn who_waits_for_a_leader_that_is_gone_is_told() {
        let group = Group::<usize, usize>::default();
        let never = async |_: Vec<usize>| std::future::pending().await;
        let mut calls = [1, 2, 3].map(|call| Box::pin(group.make(call, never)));
        // The first leads alone; the others wait for him.
        for call in &mut calls {
            assert!(futures_util::poll!(call).is_pending());
        }
        let [first, mut second, third] = calls;
        drop(first);
        // Now the second leads himself and the third.
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(second);
        assert!(matches!(third.await, Err(LedgerError::CutOff)));
    }
}
