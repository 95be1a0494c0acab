//! The verbs on the outbox: what is still to be delivered, tried again, dropped.

use super::{Control, ControlError, Page, RecordingId};
use crate::library::{DeliveryKind, Letter, LetterFilter, LibraryError, OutboxId};

impl Control {
    /// A page of what is still to be delivered, oldest first.
    pub async fn deliveries(&self, filter: LetterFilter) -> Result<Page<Letter>, ControlError> {
        self.inner.library.letters(&filter).await.map_err(|e| match e {
            LibraryError::Cursor => ControlError::BadCursor,
            e => failed(e),
        })
    }

    /// Tries one now; a dead one begins anew, and one that is held stays so.
    pub async fn retry_delivery(&self, id: OutboxId) -> Result<Letter, ControlError> {
        let library = &self.inner.library;
        let unknown = || ControlError::UnknownDelivery(id.to_string());
        if !library.retry_letter(id).await.map_err(failed)? {
            return Err(unknown());
        }
        // As it is before it is tried.
        let letter = library.letter(id).await.map_err(failed)?.ok_or_else(unknown);
        self.inner.facts.deliveries.wake();
        letter
    }

    /// Tries every dead one again, of this kind and recording where they are given; answers how many.
    pub async fn retry_deliveries(
        &self,
        kind: Option<DeliveryKind>,
        recording: Option<RecordingId>,
    ) -> Result<u64, ControlError> {
        let retried = self.inner.library.retry_dead(kind, recording).await.map_err(failed)?;
        self.inner.facts.deliveries.wake();
        Ok(retried)
    }

    /// Takes one out undelivered; an attempt that is under way goes on.
    pub async fn drop_delivery(&self, id: OutboxId) -> Result<(), ControlError> {
        match self.inner.library.drop_letter(id).await.map_err(failed)? {
            true => {
                self.inner.facts.deliveries.wake();
                Ok(())
            }
            false => Err(ControlError::UnknownDelivery(id.to_string())),
        }
    }
}

fn failed(error: LibraryError) -> ControlError {
    ControlError::Failed(error.to_string())
}
